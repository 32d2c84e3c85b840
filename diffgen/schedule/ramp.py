"""What the schedules share whose betas climb between two given ends."""

import abc
from dataclasses import dataclass

from diffgen.schedule.discrete import Discrete, Remedies, rescaling


@dataclass(frozen=True, kw_only=True)
class Ramp(Discrete, abc.ABC):
    """Betas from `beta_min` to `beta_max`, which are stated for 1000 levels.

    With another number of levels the ends are scaled by 1000 / levels, so that the last level is
    as noisy (Dhariwal and Nichol 2021's code does the same); `rescale=false` keeps them.
    """

    beta_min: float = 1e-4
    beta_max: float = 0.02
    rescale: bool = True

    @property
    def ends(self) -> tuple[float, float]:
        """The first and the last beta at this number of levels."""
        scale = 1000 / self.levels if self.rescale else 1.0
        return scale * self.beta_min, scale * self.beta_max

    @property
    def remedies(self) -> Remedies:
        return rescaling("schedule.beta_max", self.beta_max, self.levels, self.rescale)
