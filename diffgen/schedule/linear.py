"""DDPM's schedule (Ho et al. 2020, section 4)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.schedule.discrete import Discrete


@dataclass(frozen=True, kw_only=True)
class Linear(Discrete):
    """Betas even from `beta_min` to `beta_max`, which are stated for 1000 levels.

    With another number of levels the ends are scaled by 1000 / levels, so that the image drowns
    as deep (Nichol and Dhariwal 2021's code does the same); `rescale=false` keeps them.
    """

    beta_min: float = 1e-4
    beta_max: float = 0.02
    rescale: bool = True

    def betas(self) -> Tensor:
        scale = 1000 / self.levels if self.rescale else 1.0
        ends = scale * self.beta_min, scale * self.beta_max
        return torch.linspace(*ends, self.levels, dtype=torch.float64)
