"""The optimiser, Muon among them (Jordan et al. 2024; Liu et al. 2025), and its learning rate."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
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


Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class OptimizerSettings:
    """Adam (decoupled weight decay) with linear warm-up over `warmup` steps.

    decay: constant keeps the rate; cosine lets it fall to zero at the last step of the run;
    inverse_sqrt multiplies it by sqrt(hold / step) from step `hold` on, by default the end of the
    warm-up (EDM2: Karras et al. 2024).
    momentum, matrix_lr: of Muon on matrices and kernels; without the first, these are Adam's, too,
    without the second, one rate serves all.
    """

    lr: PositiveFloat = 2e-4
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    warmup: NonNegativeInt = 0
    decay: Literal["constant", "cosine", "inverse_sqrt"] = "constant"
    hold: PositiveInt | None = None
    momentum: Share | None = None
    matrix_lr: PositiveFloat | None = None

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of a network's parameters."""
        if self.momentum is None:
            if self.matrix_lr:
                raise UsageError(
                    "optimizer.matrix_lr is Muon's: add optimizer=muon, or leave it out"
                )
            return self.adam(network.parameters())
        return MuonAdamW(network, self.adam, self.momentum, self.matrix_lr)

    def adam(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW, which is Adam where weight_decay is 0."""
        return torch.optim.AdamW(
            parameters, self.lr, self.betas, self.eps, self.weight_decay, foreach=True
        )

    def factor(self, step: int, max_steps: int) -> float:
        """What the rate is multiplied by at step 0, 1, ..."""
        warmup = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return warmup * DECAYS[self.decay](step, max_steps, self.hold or self.warmup or 1)

    def warning(self, max_steps: int) -> str | None:
        """What is wrong with the rate in a run of so many steps, with the remedy."""
        run = f"no shorter than the run of {max_steps:,}: the rate never"
        if self.warmup >= max_steps:
            return (
                f"the warm-up of {self.warmup:,} steps is {run} reaches optimizer.lr={self.lr:g}; "
                f"give optimizer.warmup={max_steps // 10}, or train for longer"
            )
        if self.decay == "inverse_sqrt" and (self.hold or 0) >= max_steps:
            return (
                f"optimizer.hold={self.hold} is {run} falls; give optimizer.hold="
                f"{max_steps // 2}, or train for longer"
            )
        return None


# (step, max_steps, hold) -> factor of the rate
DECAYS: dict[str, Callable[[int, int, int], float]] = {
    "constant": lambda step, max_steps, hold: 1.0,
    "cosine": lambda step, max_steps, hold: (
        0.5 * (1 + math.cos(math.pi * min(1.0, step / max_steps)))
    ),
    "inverse_sqrt": lambda step, max_steps, hold: min(1.0, math.sqrt(hold / (step + 1))),
}
