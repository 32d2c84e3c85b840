"""The cosine schedule (Nichol and Dhariwal 2021, equation 17)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.schedule.discrete import Discrete, Remedies


@dataclass(frozen=True, kw_only=True)
class Cosine(Discrete):
    """alpha^2 = cos^2((t + offset) / (1 + offset) pi / 2), relative to t = 0; betas capped."""

    offset: float = 0.008
    beta_max: float = 0.999

    def betas(self) -> Tensor:
        t = torch.linspace(0, 1, self.levels + 1, dtype=torch.float64)
        signal = ((t + self.offset) / (1 + self.offset) * math.pi / 2).cos() ** 2
        return (1 - signal[1:] / signal[:-1]).clamp(max=self.beta_max)

    @property
    def remedies(self) -> Remedies:
        return Remedies(
            low="take schedule.offset from 0 up and schedule.beta_max above 0",
            high="take schedule.beta_max below 1",
            visible="raise schedule.beta_max, where betas are capped",
        )
