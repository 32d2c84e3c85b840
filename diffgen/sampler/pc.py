"""Predictor-corrector sampling (Song et al. 2021, algorithm 1 with appendix G)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler.base import (
    VARIANCES,
    Noise,
    Sampler,
    check_range,
    posterior_mean,
    variance_warning,
)
from diffgen.schedule import Schedule


@dataclass(frozen=True)
class PC(Sampler):
    """`correctors` Langevin steps at each time, then an ancestral step; steps x (1 + that) NFE.

    A step is of size 2 a (snr |z| / |score|)^2, a = (alpha_t / alpha_s)^2 for the step from t to
    s: DDPM's 1 - beta, and 1 on VE. The norms are each image's own, where the paper's code
    averages them over the batch, so that an image does not depend on its company. The step then
    depends on the noise that it multiplies: no matter from a few hundred numbers on, but with 48
    of them the variance is up to a tenth too large, and with 2 several times.
    """

    snr: float = 0.16
    correctors: int = 1
    variance: Literal["fixedsmall", "fixedlarge"] = "fixedsmall"
    spacing = "linspace"

    def __post_init__(self) -> None:
        check_range("snr", self.snr, 0, math.inf)
        check_range("correctors", self.correctors, 0, math.inf)

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        schedule, variance = denoiser.schedule, VARIANCES[self.variance]
        for t, s in pairwise(times):
            a = (schedule.alpha(t) / schedule.alpha(s)) ** 2
            for _ in range(self.correctors):
                score, z = denoiser.score(x, t, label), noise(x)
                step = 2 * a * (self.snr * norm(z) / norm(score)) ** 2
                x = x + step * score + (2 * step).sqrt() * z
            x = posterior_mean(schedule, x, denoiser(x, t, label), t, s)
            if s > 0:
                x = x + variance(schedule, t, s).sqrt() * noise(x)
            yield x

    def warning(self, schedule: Schedule, steps: int) -> str | None:
        return variance_warning(self.variance, schedule, steps)


def norm(x: Tensor) -> Tensor:
    """Length of each image (B, 1, 1, 1)."""
    return cast(Tensor, torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True))  # pyright: ignore[reportUnknownMemberType]
