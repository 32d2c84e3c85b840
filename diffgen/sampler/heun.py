"""Heun's method in u = sigma / alpha (Karras et al. 2022, algorithm 2)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler.base import Noise, first_order
from diffgen.sampler.churn import Churned

STEEP = 20  # u_t / u_s - 1 beyond which the slope at s says nothing of the step


@dataclass(frozen=True)
class Heun(Churned):
    """Second order, 2 steps - 1 evaluations at most: the step to the image is Euler's.

    With y = x / alpha and dy/du = eps, the mean of the slopes at t and at s moves Euler's result
    by alpha_s (u_s - u_t) (eps_s - eps_t) / 2 = alpha_s (1 - u_t / u_s) (x0_t - x0_s) / 2. Where
    u falls more than twentyfold, as in the first step from alpha = 0 or nearly so, that factor
    would enlarge any change of x0 beyond measure, and the step is Euler's, too.
    """

    spacing = "trailing"
    finer = "log_snr"

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        schedule = denoiser.schedule
        for t, s in pairwise(times):
            x, t = self.add_churn(schedule, x, t, len(times) - 1, noise)
            x0 = denoiser(x, t, label)
            x = first_order(schedule, x, x0, t, s)
            fall = (schedule.log_snr(s) - schedule.log_snr(t)).expm1()
            if s > 0 and fall < STEEP:
                x = x + schedule.alpha(s) * fall / 2 * (denoiser(x, s, label) - x0)
            yield x
