"""The optimiser and the schedule of its learning rate."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import nn

Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class OptimizerSettings:
    """Adam (decoupled weight decay) with linear warm-up over `warmup` steps.

    decay: constant keeps the rate; cosine lets it fall to zero at the last step of the run.
    """

    lr: PositiveFloat = 2e-4
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    warmup: NonNegativeInt = 0
    decay: Literal["constant", "cosine"] = "constant"

    def adam(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW, which is Adam where weight_decay is 0."""
        return torch.optim.AdamW(
            parameters, self.lr, self.betas, self.eps, self.weight_decay, foreach=True
        )

    def factor(self, step: int, max_steps: int) -> float:
        """What the rate is multiplied by at step 0, 1, ..."""
        warmup = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.decay == "constant":
            return warmup
        return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max_steps)))
