"""Annealed Langevin dynamics (Song and Ermon 2019, algorithm 1; 2020, algorithm 1)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.errors import UsageError
from diffgen.sampler.base import Noise, Sampler, check_range, log_snrs, lowest_variance
from diffgen.schedule import Schedule


def variance_ratio(rate: Tensor, gamma: float, inner: int) -> Tensor:
    """Variance (...) after a level over the level's own sigma^2, for rates (...) in (0, 2)."""
    limit = 1 / (1 - rate / 2)
    return (1 - rate) ** (2 * inner) * (gamma**2 - limit) + limit


def best_rate(gamma: float, inner: int) -> float:
    """epsilon / sigma_L^2 in (0, 1) at which the variance ratio is least, to six digits.

    The minimum is flat, so that float64 tells no more digits apart.
    """
    low, high = -30.0, 0.0
    for _ in range(8):
        logs = torch.linspace(low, high, 201, dtype=torch.float64)
        best = int(variance_ratio(logs.exp(), gamma, inner).argmin())
        low, high = float(logs[max(best - 2, 0)]), float(logs[min(best + 2, 200)])
    return math.exp((low + high) / 2)


def gamma(schedule: Schedule, times: Tensor) -> float:
    """Mean ratio of neighbouring levels sigma / alpha among the times above 0."""
    log_snr = log_snrs(schedule, times[times > 0])
    if len(log_snr) < 2:
        raise UsageError("sampler.epsilon=auto needs steps=2 or more; or give a number")
    return float(((log_snr[-1] - log_snr[0]) / (len(log_snr) - 1)).exp())


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
