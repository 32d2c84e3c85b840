"""Ancestral sampling (Ho et al. 2020, algorithm 2 and equation 7)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.denoiser.learned_variance import between, estimate
from diffgen.sampler.base import (
    VARIANCES,
    Noise,
    Sampler,
    few_steps,
    posterior_mean,
    variance_warning,
)
from diffgen.schedule import Schedule

# denoiser, x, t, s, label -> the estimate of x0 and the variance of x_s
Step = Callable[[Denoiser, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


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
        schedule = denoiser.schedule
        step = STEPS[in_force(self.variance, schedule, times)]
        for t, s in pairwise(times):
            x0, variance = step(denoiser, x, t, s, label)
            x = posterior_mean(schedule, x, x0, t, s)
            if s > 0:
                x = x + variance.sqrt() * noise(x)
            yield x

    def with_fixed_step(self, schedule: Schedule, times: Tensor) -> Sampler:
        return replace(self, variance=in_force(self.variance, schedule, times))

    def warning(self, schedule: Schedule, steps: int) -> str | None:
        return variance_warning(self.variance, schedule, steps)


def in_force(variance: str, schedule: Schedule, times: Tensor) -> str:
    """The variance by its name, of `auto` the one that suits so many steps."""
    if variance in STEPS:
        return variance
    return "fixedsmall" if few_steps(schedule, len(times) - 1) else "fixedlarge"


def fixed(name: str) -> Step:
    """Steps whose variance () the schedule gives, by its name."""
    return lambda denoiser, x, t, s, label: (
        denoiser(x, t, label),
        VARIANCES[name](denoiser.schedule, t, s),
    )


def learned(
    denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A step whose variance (B, C, H, W) the network gives, between the schedule's two."""
    x0, outputs = estimate(denoiser, x, t, label)
    small, large = (
        VARIANCES[name](denoiser.schedule, t, s).log() for name in ("fixedsmall", "fixedlarge")
    )
    return x0, between(outputs, small, large).exp()


STEPS: dict[str, Step] = {
    "fixedsmall": fixed("fixedsmall"),
    "fixedlarge": fixed("fixedlarge"),
    "learned": learned,
}
