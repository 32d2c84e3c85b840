"""The same beta at every level (Sohl-Dickstein et al. 2015 and the ablations of DDPM's code)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.schedule.discrete import Discrete, Remedies, rescaling


@dataclass(frozen=True, kw_only=True)
class Constant(Discrete):
    """`beta`, stated for 1000 levels and scaled by 1000 / levels unless `rescale=false`."""

    beta: float = 0.01
    rescale: bool = True

    def betas(self) -> Tensor:
        scale = 1000 / self.levels if self.rescale else 1.0
        return torch.full((self.levels,), scale * self.beta, dtype=torch.float64)

    @property
    def remedies(self) -> Remedies:
        return rescaling("schedule.beta", self.beta, self.levels, self.rescale)
