"""The weight w of guidance, D + w (D - D_weak) = (1 + w) D - w D_weak, and where it acts."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.schedule import Schedule
from diffgen.schedule.base import match

Interval = tuple[float, float] | None
LARGEST = 1e6  # a weight beyond leaves the range of float32 within a few steps


@dataclass(frozen=True)
class Weight:
    """`value` where sigma / alpha lies in `interval` [low, high], else 0; None means everywhere.

    Kynkaanniemi et al., Applying Guidance in a Limited Interval Improves Sample and Distribution
    Quality in Diffusion Models (2024). UsageError for a weight or an interval that cannot be.
    """

    value: float
    interval: Interval = None

    def __post_init__(self) -> None:
        if not abs(self.value) <= LARGEST:
            raise UsageError(
                f"guidance.weight={self.value:g} must be a number from -{LARGEST:g} to {LARGEST:g}"
            )
        low, high = self.interval or (0, math.inf)
        if not 0 <= low < high:
            raise UsageError(
                f"guidance.interval=[{low:g},{high:g}] must be [low,high] in sigma/alpha with "
                "0 <= low < high"
            )

    def at(self, schedule: Schedule, t: Tensor) -> Tensor:
        """The weight at t, () or (B,), of the shape of t."""
        weight = torch.full_like(t, self.value)
        if self.interval is None:
            return weight
        low, high = self.interval
        noise = schedule.sigma(t) / schedule.alpha(t)
        return weight * ((low <= noise) & (noise <= high))


def guide(cond: Tensor, uncond: Tensor, weight: Tensor) -> Tensor:
    """(1 + w) cond - w uncond, (B, ...), for w () or (B,); exactly `cond` where w = 0."""
    return cond + match(weight, cond) * (cond - uncond)
