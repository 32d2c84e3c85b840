"""Euler-Maruyama on the reverse-time SDE (Song et al. 2021, equation 6)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler.base import Noise, Sampler, posterior_mean, posterior_variance


@dataclass(frozen=True)
class EulerMaruyama(Sampler):
    """x + x ln(alpha_s / alpha_t) + G score + sqrt(G) z, with G the integral of g^2 from s to t.

    G = sigma_t^2 - sigma_s^2 + (sigma_t^2 + sigma_s^2) ln(alpha_s / alpha_t) by the trapezoid
    rule, exact where alpha = 1. It wants hundreds of steps. The step to the image is the
    denoiser's, and a step from alpha = 0, where the drift is not bounded, ancestral.
    """

    spacing = "linspace"

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        schedule = denoiser.schedule
        for t, s in pairwise(times):
            x0 = denoiser(x, t, label)
            if s == 0 or schedule.alpha(t) == 0:
                variance = posterior_variance(schedule, t, s)
                x = posterior_mean(schedule, x, x0, t, s)
            else:
                log_ratio = (schedule.alpha(s) / schedule.alpha(t)).log()
                var_t, var_s = schedule.sigma(t) ** 2, schedule.sigma(s) ** 2
                variance = var_t - var_s + (var_t + var_s) * log_ratio
                x = x + log_ratio * x + variance / var_t * (schedule.alpha(t) * x0 - x)
            if s > 0:
                x = x + variance.sqrt() * noise(x)
            yield x
