"""NCSN's ladder of noise levels (Song and Ermon 2019, section 4.2): variance exploding."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.schedule.base import Schedule


@dataclass(frozen=True, kw_only=True)
class Geometric(Schedule):
    """sigma falls by one constant ratio a level, from `sigma_max` to `sigma_min`; alpha = 1.

    Sigmas are in the units of the model's data range, [0, 1] for the NCSN family.
    """

    sigma_max: float
    sigma_min: float = 0.01
    levels: int = 10  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        check_ladder(self.sigma_max, self.sigma_min, self.levels)

    @property
    def t_min(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 / self.levels

    @property
    def ratio(self) -> float:
        """gamma, the ratio of neighbouring sigmas, above 1."""
        return (self.sigma_max / self.sigma_min) ** (1 / (self.levels - 1))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        position = t.double() * self.levels
        ladder = self.sigma_min * ((position - 1) * math.log(self.ratio)).exp()
        return torch.where(position < 1, self.sigma_min * position, ladder)


def check_ladder(sigma_max: float, sigma_min: float, levels: int) -> None:
    """UsageError unless 0 < sigma_min < sigma_max and there are 2 levels or more."""
    if not (0 < sigma_min < sigma_max and levels >= 2):
        raise UsageError(
            f"a ladder needs 0 < schedule.sigma_min < schedule.sigma_max and 2 levels or "
            f"more, not {sigma_min}, {sigma_max} and {levels}"
        )
