"""The quadratic schedule of DDIM's code (`quad`), known from latent diffusion as scaled linear."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.schedule.discrete import Ramp


@dataclass(frozen=True, kw_only=True)
class Quadratic(Ramp):
    """Square roots of the betas even between their ends."""

    def betas(self) -> Tensor:
        low, high = self.ends
        return torch.linspace(low**0.5, high**0.5, self.levels, dtype=torch.float64) ** 2
