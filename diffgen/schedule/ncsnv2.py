"""NCSNv2's ladder of noise levels, made for the data (Song and Ermon 2020, techniques 1 and 2)."""

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from diffgen.errors import UsageError
from diffgen.schedule.base import Schedule
from diffgen.schedule.geometric import Geometric, check_ladder

SEARCHED = (1.0, 1e4)  # ratios among which technique 2 looks


@dataclass(frozen=True, kw_only=True)
class NCSNv2(Schedule):
    """sigma falls by one constant ratio a level, from `sigma_max` to `sigma_min`; alpha = 1.

    Training fills in what is null: `sigma_max`, the largest distance between two training images
    in the model's range (technique 1), and `levels`, as many as let neighbours overlap by `C`
    (technique 2; 0.5 is the paper's text, 0.567 its published ladders).
    """

    measured: ClassVar = ("sigma_max", "levels")

    sigma_max: float
    sigma_min: float = 0.01
    C: float = 0.5
    levels: int  # pyright: ignore[reportIncompatibleVariableOverride]

    @functools.cached_property
    def ladder(self) -> Geometric:
        """The same levels, given by their number."""
        return Geometric(sigma_max=self.sigma_max, sigma_min=self.sigma_min, levels=self.levels)

    @property
    def t_min(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.ladder.t_min

    def __post_init__(self) -> None:
        check_ladder(self.sigma_max, self.sigma_min, self.levels)

    def alpha(self, t: Tensor) -> Tensor:
        return self.ladder.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.ladder.sigma(t)


def overlap(ratio: float, dimension: int) -> float:
    """C, the share of a level's noise that its neighbour's shells hold (proposition 2).

    ratio: of neighbouring sigmas, 1 or more; dimension: numbers in an image. In many dimensions
    the distance to the image is normal at each level, and C is the mass that one level's puts
    within three deviations of the next; it falls from 0.9973 at ratio 1 towards 0.
    """
    shift = math.sqrt(2 * dimension) * (ratio - 1)
    above, below = shift + 3 * ratio, shift - 3 * ratio
    return (math.erfc(below / math.sqrt(2)) - math.erfc(above / math.sqrt(2))) / 2


def ratio_of(C: float, dimension: int) -> float:
    """The ratio gamma of neighbouring sigmas that overlap by `C` (technique 2), by bisection."""
    low, high = SEARCHED
    if not overlap(high, dimension) < C < overlap(low, dimension):
        raise UsageError(
            f"schedule.C={C} cannot be met by images of {dimension} numbers: it must lie between "
            f"{overlap(high, dimension):.3f} and {overlap(low, dimension):.3f}"
        )
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if overlap(middle, dimension) > C else (low, middle)
    return high


def levels_between(sigma_max: float, sigma_min: float, ratio: float) -> float:
    """How many levels of this ratio reach from `sigma_min` to `sigma_max`, before rounding."""
    return 1 + math.log(sigma_max / sigma_min) / math.log(ratio)


def levels_of(sigma_max: float, sigma_min: float, C: float, dimension: int) -> int:
    """Technique 2's number of levels, the nearest whole one and at least 2.

    At C = 0.567 it is one more than published for 96 (788.56) and 128 pixels (1086.52).
    """
    if not 0 < sigma_min < sigma_max:
        raise UsageError(
            f"a ladder needs 0 < schedule.sigma_min < sigma_max, not {sigma_min} and {sigma_max:g}"
        )
    return max(2, round(levels_between(sigma_max, sigma_min, ratio_of(C, dimension))))
