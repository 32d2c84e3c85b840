"""Churn: new noise before a deterministic step (Karras et al. 2022, algorithm 2)."""

import abc
import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from diffgen.sampler.base import Noise, Sampler, check_range, noised
from diffgen.schedule import Schedule


@dataclass(frozen=True)
class Churned(Sampler, abc.ABC):
    """Settings of a sampler whose steps start a little higher, at u (1 + g), u = sigma / alpha.

    g = min(churn / steps, sqrt(2) - 1) while `churn_min` <= u <= `churn_max`, and never beyond
    t = 1. `churn_scale` multiplies the noise. They are the paper's S_churn, S_min, S_max, S_noise.
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_scale: float = 1.0

    def __post_init__(self) -> None:
        check_range("churn", self.churn, 0, math.inf)
        check_range("churn_scale", self.churn_scale, 0, math.inf)

    all_steps: ClassVar[int | None] = None  # that churn is shared among; None: those of a call

    def deterministic(self) -> Sampler:
        return replace(self, churn=0.0)

    def keeps_times(self) -> bool:
        return self.churn == 0

    def with_fixed_step(self, schedule: Schedule, times: Tensor) -> Sampler:
        fixed = replace(self)
        object.__setattr__(fixed, "all_steps", len(times) - 1)
        return fixed

    def add_churn(
        self, schedule: Schedule, x: Tensor, t: Tensor, steps: int, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) with churn's noise, and the later time at which it now is."""
        steps = self.all_steps or steps
        log_snr = schedule.log_snr(t)
        if not (self.churn > 0 and self.churn_min <= (-log_snr).exp() <= self.churn_max):
            return x, t
        higher = schedule.time(log_snr - math.log1p(min(self.churn / steps, math.sqrt(2) - 1)))
        if higher <= t:
            return x, t
        return noised(schedule, x, t, higher, self.churn_scale * noise(x)), higher
