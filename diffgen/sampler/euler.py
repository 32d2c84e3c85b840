"""Euler's method in u = sigma / alpha (Karras et al. 2022, algorithm 2 without its correction)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler.base import Noise, first_order
from diffgen.sampler.churn import Churned


@dataclass(frozen=True)
class Euler(Churned):
    """First order; without churn the same as DDIM with eta = 0."""

    spacing = "trailing"

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        schedule = denoiser.schedule
        for t, s in pairwise(times):
            x, t = self.add_churn(schedule, x, t, len(times) - 1, noise)
            x = first_order(schedule, x, denoiser(x, t, label), t, s)
            yield x
