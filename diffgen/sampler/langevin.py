"""Annealed Langevin dynamics (Song and Ermon 2019, algorithm 1; 2020, algorithm 1)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.errors import UsageError
from diffgen.sampler.base import Noise, Sampler, check_range, lowest_variance
from diffgen.sampler.langevin_step import best_rate, gamma
from diffgen.schedule import Schedule

DIVERGES = {"code": 2, "paper": 4}  # epsilon / sigma_L^2 from which x diverges


@dataclass(frozen=True)
class Langevin(Sampler):
    """At each level `inner` moves x + a score + sqrt(2 a) z, a = epsilon (sigma / sigma_L)^2.

    sigma_L is the lowest trained level, visited or not; x is not rescaled between levels.
    epsilon=auto follows technique 4 for the visited levels. convention=paper halves a, as only the
    first paper prints it. `denoise` ends with the image's mean given x: NFE levels x inner + 1.
    """

    epsilon: float | Literal["auto"] = "auto"
    inner: int = 5
    convention: Literal["code", "paper"] = "code"
    denoise: bool = True
    spacing = "linspace"
    start = "uniform"
    resamplings = 1
    clips_by_default = False

    def __post_init__(self) -> None:
        check_range("inner", self.inner, 1, math.inf)

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        rate = self.rate(denoiser.schedule, times)
        for t, s in pairwise(times):
            a = rate * denoiser.schedule.sigma(t) ** 2
            for _ in range(self.inner):
                x = x + a * denoiser.score(x, t, label) + (2 * a).sqrt() * noise(x)
            if s == 0 and self.denoise:
                x = denoiser(x, t, label)
            yield x

    def with_fixed_step(self, schedule: Schedule, times: Tensor) -> Sampler:
        epsilon = self.rate(schedule, times) * lowest_variance(schedule, times)
        return replace(self, epsilon=epsilon, convention="code")

    def rate(self, schedule: Schedule, times: Tensor) -> float:
        """a / sigma^2, the same at every level; UsageError from 2 on, where x diverges."""
        if not isinstance(self.epsilon, int | float):
            return best_rate(gamma(schedule, times), self.inner)
        limit = DIVERGES[self.convention] * lowest_variance(schedule, times)
        if not 0 < self.epsilon < limit:
            raise UsageError(
                f"sampler.epsilon={self.epsilon:g} makes Langevin dynamics diverge: take one "
                f"inside (0, {limit:g}) for this model, or auto"
            )
        return 2 * self.epsilon / limit
