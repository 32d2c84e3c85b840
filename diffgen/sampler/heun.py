"""Heun's method in u = sigma / alpha (Karras et al. 2022, algorithm 2)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler.base import Noise, first_order
from diffgen.sampler.churn import Churned
from diffgen.schedule import Schedule

STEEP = 20  # u_t / u_s - 1 beyond which the slope at s says nothing of the step


@dataclass(frozen=True)
class Heun(Churned):
    """Second order, 2 steps - 1 evaluations at most: the step to the image is Euler's.

    With y = x / alpha and dy/du = eps, the mean of the slopes at t and at s moves Euler's result
    by alpha_s (u_s - u_t) (eps_s - eps_t) / 2 = alpha_s (u_t / u_s - 1) (x0_s - x0_t) / 2. On a
    schedule that ends at alpha = 0 (flow, or a terminal SNR of zero) u has no end; there
    alpha + sigma takes the place of alpha: with y = x / (alpha + sigma) and u = sigma / (alpha +
    sigma), dy/du = eps - x0 is flow matching's velocity, and the step is that of its papers.

    Where u falls more than twentyfold, as in the first step from nearly alpha = 0, that factor
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
            scale_t, scale_s = scale(schedule, t), scale(schedule, s)
            fall = schedule.sigma(t) / scale_t * (scale_s / schedule.sigma(s)) - 1
            if s > 0 and fall < STEEP:
                x = x + scale_s * fall / 2 * (denoiser(x, s, label) - x0)
            yield x


def scale(schedule: Schedule, t: Tensor) -> Tensor:
    """What x is divided by at t: alpha, or alpha + sigma where the schedule ends at alpha = 0."""
    ends_in_noise = schedule.alpha(t.new_tensor(1.0)) == 0
    return schedule.alpha(t) + schedule.sigma(t) if ends_in_noise else schedule.alpha(t)
