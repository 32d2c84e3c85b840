"""The sigmoid schedule of DDIM's code: betas, not alphas, follow the sigmoid."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.schedule.discrete import Ramp


@dataclass(frozen=True, kw_only=True)
class SigmoidBeta(Ramp):
    """beta = beta_min + (beta_max - beta_min) sigmoid(v), v even on [-6, 6]."""

    def betas(self) -> Tensor:
        low, high = self.ends
        v = torch.linspace(-6, 6, self.levels, dtype=torch.float64)
        return low + (high - low) * v.sigmoid()
