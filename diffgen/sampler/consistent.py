"""Consistent annealed sampling (Jolicoeur-Martineau et al. 2021, algorithm 2)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.errors import UsageError
from diffgen.sampler.base import Noise, Sampler, log_snrs, lowest_variance
from diffgen.schedule import Schedule


@dataclass(frozen=True)
class Consistent(Sampler):
    """One Langevin move a level whose noise brings x exactly onto the next level.

    With y = x / alpha, u = sigma / alpha and e = epsilon / sigma_L^2, the same at every level:
    y + e (x0 - y) + u_s sqrt(1 - ((1 - e) u_t / u_s)^2) z. epsilon=auto takes 1 - e as
    (u_s / u_t)^2 at the widest step; where all are equal that is ancestral sampling. The last
    step is the denoiser's image.
    """

    epsilon: float | Literal["auto"] = "auto"
    spacing = "log_snr"

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        schedule = denoiser.schedule
        contraction, h = self.contraction(schedule, times), log_snrs(schedule, times).diff()
        for k, (t, s) in enumerate(pairwise(times)):
            x0 = denoiser(x, t, label)
            if s == 0:
                yield x0
                return
            alpha, sigma = schedule.at(t, x)
            coef_eps = contraction * h[k].exp() * schedule.sigma(s)
            x = schedule.alpha(s) * x0 + coef_eps * (x - alpha * x0) / sigma
            x = x + (schedule.sigma(s) ** 2 - coef_eps**2).clamp(min=0).sqrt() * noise(x)
            yield x

    def with_fixed_step(self, schedule: Schedule, times: Tensor) -> Sampler:
        e = 1 - self.contraction(schedule, times)
        return replace(self, epsilon=e * lowest_variance(schedule, times))

    def contraction(self, schedule: Schedule, times: Tensor) -> float:
        """1 - e; UsageError where a step would have to take noise away beyond its move."""
        widest = float(log_snrs(schedule, times[times > 0]).diff().amax()) if len(times) > 2 else 0
        if not isinstance(self.epsilon, int | float):
            return math.exp(-2 * widest)
        lowest = lowest_variance(schedule, times)
        least = (1 - math.exp(-widest)) * lowest
        if not least <= self.epsilon <= lowest:
            raise UsageError(
                f"sampler.epsilon={self.epsilon:g} must lie inside [{least:.3g}, {lowest:.3g}] "
                "for these steps; more steps lower the bound, and sampler.epsilon=auto fits it"
            )
        return 1 - self.epsilon / lowest
