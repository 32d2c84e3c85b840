"""The variational bound by which a network learns the variance of its ancestral steps."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.denoiser.learned_variance import between
from diffgen.errors import UsageError
from diffgen.sampler.base import added_variance, posterior_variance
from diffgen.schedule import Schedule
from diffgen.schedule.base import match

FAR = 1e4  # beyond black and white the outermost bins have no end


@dataclass(frozen=True)
class Bound:
    """One term of the bound, in bits: L_(t-1) of Ho et al. 2020, equation 5.

    It teaches the variance alone: the mean is taken as given (Nichol and Dhariwal 2021, section
    3.1). `low` and `high` are a black and a white pixel, 255 steps apart. UsageError on a schedule
    without levels.
    """

    schedule: Schedule
    low: float
    high: float
    share: float = 1e-3  # of the bound in the hybrid loss, where all its terms are summed

    def __post_init__(self) -> None:
        if not self.schedule.levels:
            raise UsageError(
                "model.variance=learned needs a schedule of levels, such as linear or cosine"
            )

    def __call__(self, x0: Tensor, mean: Tensor, outputs: Tensor, t: Tensor) -> Tensor:
        """share x levels x bits (b, C, H, W) of images x0, with estimates `mean` of them.

        outputs (b, 2 C, H, W) are the network's at times t (b,).
        """
        levels = self.schedule.levels or 1
        mean, first = mean.detach(), t * levels < 1.5
        small, large, pull = (match(value, x0) for value in self.coefficients(t))
        log_variance = between(outputs, small, large)
        gap = divergence((pull * (x0 - mean)).square(), small, log_variance)
        told = self.surprise(x0, mean, log_variance)
        nats = torch.where(match(first, x0).bool(), told, gap)
        return self.share * levels / math.log(2) * nats

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b,) each: ln of the posterior's variance and of the added one, share of x0 in the mean.

        The posterior's variance is 0 on the step to the image and that of the step before there.
        """
        schedule, unit = self.schedule, 1 / (self.schedule.levels or 1)
        s = torch.where(t < 1.5 * unit, 0, t - unit)
        later = t.clamp(min=2 * unit)
        small = posterior_variance(schedule, later, later - unit).log()
        large = added_variance(schedule, t, s).log()
        kept = schedule.alpha(t) / schedule.alpha(s) * (schedule.sigma(s) / schedule.sigma(t)) ** 2
        return small, large, schedule.alpha(s) - kept * schedule.alpha(t)

    def surprise(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """-ln of the probability of each pixel's byte (Ho et al. 2020, equation 13)."""
        half = (self.high - self.low) / 510
        above = torch.where(x0 > self.high - half, FAR, x0 + half - mean)
        below = torch.where(x0 < self.low + half, -FAR, x0 - half - mean)
        # In the lower tail, where differences of the distribution function are exact.
        precision = torch.where(x0 > mean, -1, 1) * (-log_variance / 2).exp()
        ndtr = torch.special.ndtr
        return -(ndtr(precision * above) - ndtr(precision * below)).abs().clamp(min=1e-12).log()


def divergence(square: Tensor, true: Tensor, taken: Tensor) -> Tensor:
    """KL of two Gaussians in nats: their log-variances, and the square between their means."""
    return 0.5 * (taken - true - 1 + (true - taken).exp() + square * (-taken).exp())
