"""The optimiser and how its learning rate moves."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True)
class OptimizerSettings:
    """Adam (decoupled weight decay) with linear warm-up over `warmup` steps.

    decay: constant keeps the rate; cosine lets it fall to zero at the last step of the run.
    """

    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: int = 0
    decay: Literal["constant", "cosine"] = "constant"

    def adam(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW, which is Adam where weight_decay is 0."""
        return torch.optim.AdamW(
            parameters, self.lr, self.betas, self.eps, self.weight_decay, foreach=True
        )

    def factor(self, step: int, max_steps: int) -> float:
        """What the rate is multiplied by at step 0, 1, ..."""
        rising = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.decay == "constant":
            return rising
        angle = torch.pi * min(1.0, step / max_steps)
        return rising * 0.5 * (1 + float(torch.tensor(angle).cos()))
