"""Ancestral sampling (Ho et al. 2020, algorithm 2 and equation 7)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from diffgen.model import Denoiser
from diffgen.sampler.base import (
    Noise,
    Sampler,
    added_variance,
    posterior_mean,
    posterior_variance,
)

VARIANCES = {"fixedsmall": posterior_variance, "fixedlarge": added_variance}


@dataclass(frozen=True)
class DDPM(Sampler):
    """x_s drawn about the posterior mean given x_t and the estimate of x0.

    variance: fixedsmall is the posterior's, fixedlarge the noise that the step removes (DDPM's
    beta, its CIFAR-10 setting). They meet in many steps; in few, fixedlarge is far too noisy.
    On variance-exploding schedules these are the ancestral and the reverse-diffusion sampling of
    Song et al. 2021 (appendices E and F). No noise on the step to the image.
    """

    variance: Literal["fixedsmall", "fixedlarge"] = "fixedsmall"
    spacing = "trailing"

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        schedule, variance = denoiser.schedule, VARIANCES[self.variance]
        for t, s in pairwise(times):
            x = posterior_mean(schedule, x, denoiser(x, t, label), t, s)
            if s > 0:
                x = x + variance(schedule, t, s).sqrt() * noise(x)
            yield x
