"""The schedule of Karras et al. 2022 ("EDM", table 1): sigma is the time."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.schedule.base import Schedule


@dataclass(frozen=True, kw_only=True)
class EDM(Schedule):
    """sigma^(1 / rho) is linear in t, from `sigma_min` at t_min to `sigma_max`; alpha = 1.

    So times even in t are the paper's steps (equation 5). Sigmas are in the units of the model's
    data range, [-1, 1] for the paper's. Below t_min sigma falls to 0 in a straight line.
    """

    sigma_max: float = 80.0
    sigma_min: float = 0.002
    rho: float = 7.0
    t_min: float = 1e-3

    levels: ClassVar[None] = None  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        low, high, rho, t_min = self.sigma_min, self.sigma_max, self.rho, self.t_min
        if not (0 < low < high and rho > 0 and 0 < t_min < 1):
            raise UsageError(
                "schedule=edm needs 0 < schedule.sigma_min < schedule.sigma_max, schedule.rho > 0 "
                f"and 0 < schedule.t_min < 1, not {low}, {high}, {rho} and {t_min}"
            )

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        t = t.double()
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        part = ((t - self.t_min) / (1 - self.t_min)).clamp(min=0)
        return (low + part * (high - low)) ** self.rho * (t / self.t_min).clamp(max=1)
