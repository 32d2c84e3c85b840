"""Ancestral sampling (Ho et al. 2020, algorithm 2 and equation 7)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler.base import Noise, Sampler, few_steps, posterior_mean, variance_warning
from diffgen.sampler.step_variance import STEPS, Step
from diffgen.schedule import Schedule


@dataclass(frozen=True)
class DDPM(Sampler):
    """x_s drawn about the posterior mean given x_t and the estimate of x0.

    variance: fixedsmall is the posterior's, fixedlarge the noise that the step removes (DDPM's
    beta, its CIFAR-10 setting). They meet in many steps; in few, fixedlarge is far too noisy and
    auto takes it only from half of the training levels up. learned is what a network of
    model.variance=learned says between the two (Nichol and Dhariwal 2021, equation 15). On
    variance-exploding schedules the two are the ancestral and the reverse-diffusion sampling of
    Song et al. 2021 (appendices E and F). No noise on the step to the image.
    """

    variance: Literal["fixedsmall", "fixedlarge", "auto", "learned"] = "fixedsmall"
    spacing = "trailing"

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        schedule, step = denoiser.schedule, self.chosen(denoiser.schedule, len(times) - 1)
        for t, s in pairwise(times):
            x0, variance = step(denoiser, x, t, s, label)
            x = posterior_mean(schedule, x, x0, t, s)
            if s > 0:
                x = x + variance.sqrt() * noise(x)
            yield x

    def chosen(self, schedule: Schedule, steps: int) -> Step:
        """The variance for this many steps."""
        if self.variance == "auto":
            return STEPS["fixedsmall" if few_steps(schedule, steps) else "fixedlarge"]
        return STEPS[self.variance]

    def warning(self, schedule: Schedule, steps: int) -> str | None:
        return variance_warning(self.variance, schedule, steps)
