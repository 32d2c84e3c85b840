"""DDPM's schedule (Ho et al. 2020, section 4)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.schedule.discrete import Ramp


@dataclass(frozen=True, kw_only=True)
class Linear(Ramp):
    """Betas even between their ends; from 21 levels up, below which the last reaches 1."""

    def betas(self) -> Tensor:
        return torch.linspace(*self.ends, self.levels, dtype=torch.float64)
