"""The continuous variance-exploding schedule (Song et al. 2021, equation 31)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.schedule.base import Schedule


@dataclass(frozen=True, kw_only=True)
class VE(Schedule):
    """ln sigma is linear in t, from `sigma_min` to `sigma_max`; alpha = 1.

    Below t_min, where no network is called, sigma falls to 0 in a straight line.
    """

    sigma_max: float = 50.0
    sigma_min: float = 0.01
    t_min: float = 1e-5

    levels: ClassVar[None] = None  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        if not (0 < self.sigma_min < self.sigma_max and 0 < self.t_min < 1):
            raise UsageError(
                "schedule=ve needs 0 < schedule.sigma_min < schedule.sigma_max and 0 < "
                f"schedule.t_min < 1, not {self.sigma_min}, {self.sigma_max} and {self.t_min}"
            )

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        t = t.double()
        grown = (math.log(self.sigma_max / self.sigma_min) * t.clamp(min=self.t_min)).exp()
        return self.sigma_min * grown * (t / self.t_min).clamp(max=1)
