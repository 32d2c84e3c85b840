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

INFINITE = 1e4  # the outermost bins have no end beyond black and white


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
    weight: float = 1e-3  # of the bound in the hybrid loss, where all its terms are summed

    def __post_init__(self) -> None:
        if not self.schedule.levels:
            raise UsageError(
                "model.variance=learned needs a schedule of levels, such as linear or cosine"
            )

    def __call__(self, x0: Tensor, mean: Tensor, outputs: Tensor, t: Tensor) -> Tensor:
        """weight x levels x bits (b, C, H, W) of images x0, with estimates `mean` of them.

        outputs (b, 2 C, H, W) are the network's at times t (b,).
        """
        levels = self.schedule.levels or 1
        mean, first = mean.detach(), t * levels < 1.5
        log_small, log_large, c_x0 = (match(value, x0) for value in self.coefficients(t))
        log_variance = between(outputs, log_small, log_large)
        kl = gaussian_kl((c_x0 * (x0 - mean)).square(), log_small, log_variance)
        nll = self.negative_log_likelihood(x0, mean, log_variance)
        nats = torch.where(match(first, x0).bool(), nll, kl)
        return self.weight * levels / math.log(2) * nats

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b,) each: ln of the posterior's and of the added variance, weight of x0 in the mean.

        The posterior's variance is 0 on the step to the image and that of the step before there.
        """
        schedule, unit = self.schedule, 1 / (self.schedule.levels or 1)
        s = torch.where(t < 1.5 * unit, 0, t - unit)
        later = t.clamp(min=2 * unit)
        log_small = posterior_variance(schedule, later, later - unit).log()
        log_large = added_variance(schedule, t, s).log()
        alpha_t, alpha_s = schedule.alpha(t), schedule.alpha(s)
        c_x_t = alpha_t / alpha_s * (schedule.sigma(s) / schedule.sigma(t)) ** 2
        return log_small, log_large, alpha_s - c_x_t * alpha_t

    def negative_log_likelihood(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """-ln of the probability of each pixel's byte (Ho et al. 2020, equation 13)."""
        half = (self.high - self.low) / 510
        above = torch.where(x0 > self.high - half, INFINITE, x0 + half - mean)
        below = torch.where(x0 < self.low + half, -INFINITE, x0 - half - mean)
        # In the lower tail, where differences of the distribution function are exact.
        precision = torch.where(x0 > mean, -1, 1) * (-log_variance / 2).exp()
        ndtr = torch.special.ndtr
        return -(ndtr(precision * above) - ndtr(precision * below)).abs().clamp(min=1e-12).log()


def gaussian_kl(square: Tensor, true: Tensor, model: Tensor) -> Tensor:
    """KL(true || model) of two Gaussians in nats, of log-variances `true` and `model`.

    `square` is that of the difference of their means.
    """
    return 0.5 * (model - true - 1 + (true - model).exp() + square * (-model).exp())
