"""The sigmoid schedule on alpha^2 (Jabri et al. 2023, "Scalable adaptive computation")."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.schedule.discrete import Discrete, Remedies


@dataclass(frozen=True, kw_only=True)
class Sigmoid(Discrete):
    """alpha^2 = a sigmoid of t from `start` to `end`, over `tau`, scaled to fall from 1 to 0.

    Betas are capped at `beta_max`, so that the last level keeps a trace of the image.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    beta_max: float = 0.999

    def betas(self) -> Tensor:
        v = torch.linspace(self.start, self.end, self.levels + 1, dtype=torch.float64)
        falling = (-v / self.tau).sigmoid()
        signal = (falling - falling[-1]) / (falling[0] - falling[-1])
        return (1 - signal[1:] / signal[:-1]).clamp(max=self.beta_max)

    @property
    def remedies(self) -> Remedies:
        return Remedies(
            low="take schedule.start and schedule.end apart, schedule.tau nearer to 1 and "
            "schedule.beta_max above 0",
            high="take schedule.beta_max below 1",
            visible="raise schedule.beta_max, where betas are capped",
        )
