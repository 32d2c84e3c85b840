"""Annealed Langevin dynamics (Song and Ermon 2019, algorithm 1; 2020, algorithm 1)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.errors import UsageError
from diffgen.sampler.base import Noise, Sampler, check_range
from diffgen.sampler.langevin_step import best_rate, gamma
from diffgen.schedule import Schedule


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

    def __post_init__(self) -> None:
        check_range("inner", self.inner, 1, math.inf)

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        rate = self.rate(denoiser.schedule, times)
        for t, s in pairwise(times):
            move = rate * denoiser.schedule.sigma(t) ** 2
            for _ in range(self.inner):
                x = x + move * denoiser.score(x, t, label) + (2 * move).sqrt() * noise(x)
            if s == 0 and self.denoise:
                x = denoiser(x, t, label)
            yield x

    def rate(self, schedule: Schedule, times: Tensor) -> float:
        """a / sigma^2, the same at every level; UsageError from 2 on, where x diverges."""
        if self.epsilon == "auto":
            return best_rate(gamma(schedule, times), self.inner)
        lowest = float(schedule.sigma(times.new_tensor(schedule.t_min))) ** 2
        most = (4 if self.convention == "paper" else 2) * lowest
        if not 0 < self.epsilon < most:
            raise UsageError(
                f"sampler.epsilon={self.epsilon:g} makes Langevin dynamics diverge: take one "
                f"inside (0, {most:g}) for this model, or auto"
            )
        return 2 * self.epsilon / most
