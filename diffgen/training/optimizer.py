"""The optimiser and the schedule of its learning rate."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from diffgen.errors import UsageError
from diffgen.training.muon import MuonAdamW

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
