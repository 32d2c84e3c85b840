"""Muon on matrices and convolutions, AdamW on all else (Jordan et al. 2024; Liu et al. 2025)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from diffgen.errors import UsageError

PIXELS = 8  # a layer of no more channels in or out is one of pixels


class MuonAdamW(torch.optim.Optimizer):
    """torch.optim.Muon on what is a matrix, kernels flattened to (outputs, the rest).

    Embeddings, biases, norms and the layers of pixels are AdamW's. Muon's step is scaled to the
    size of AdamW's (Liu et al. 2025), so that one decay serves both, and one rate where `lr` of
    the matrices is None.
    UsageError where torch has no Muon or the network no such matrix.
    """

    def __init__(
        self,
        modules: nn.Module,
        adam: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        momentum: float,
        lr: float | None = None,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise UsageError(
                f"optimizer=muon needs torch 2.9 or newer, and this is {torch.__version__}: "
                "upgrade it, or take optimizer=adam"
            )
        matrices, others = divided(modules)
        if not matrices:
            raise UsageError(
                "optimizer=muon: this network has no matrix or kernel of more than "
                f"{PIXELS} channels in and out: take optimizer=adam"
            )
        self.matrices = matrices
        self.flat = [nn.Parameter(each.detach().flatten(1)) for each in matrices]
        self.adam = adam(others)
        group = self.adam.param_groups[0]
        rate, decay = lr or group["lr"], group["weight_decay"]
        self.muon = torch.optim.Muon(
            self.flat, rate, decay, momentum, adjust_lr_fn="match_rms_adamw"
        )
        groups = [{"params": others}, {"params": matrices, "lr": rate}]
        super().__init__(groups, {"lr": group["lr"]})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        """One step of both, at the rate that the groups of this optimiser hold."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for inner, group in zip((self.adam, self.muon), self.param_groups, strict=True):
            inner.param_groups[0]["lr"] = group["lr"]
        # Flattened afresh, since the layout of a kernel in memory may be any.
        for flat, matrix in zip(self.flat, self.matrices, strict=True):
            flat.data = matrix.detach().flatten(1)
            flat.grad = None if matrix.grad is None else matrix.grad.flatten(1)
        self.muon.step()
        self.adam.step()
        for flat, matrix in zip(self.flat, self.matrices, strict=True):
            matrix.copy_(flat.view_as(matrix))
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Those of both, beside the groups that hold the rate."""
        inner = {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}
        return {**super().state_dict(), "inner": inner}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        state = dict(state_dict)
        inner = state.pop("inner")
        self.muon.load_state_dict(inner["muon"])
        self.adam.load_state_dict(inner["adam"])
        super().load_state_dict(state)


def divided(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Which parameters of a network are Muon's, and which AdamW's."""
    tables = {
        id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)
    }
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in network.parameters():
        wide = parameter.ndim > 1 and min(parameter.shape[:2]) > PIXELS
        mine = wide and id(parameter) not in tables
        (matrices if mine else others).append(parameter)
    return matrices, others
