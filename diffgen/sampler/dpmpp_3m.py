"""DPM-Solver++(3M): the multistep solver of Lu et al. 2022b at third order."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler.base import Noise, Sampler, first_order, log_snrs


@dataclass(frozen=True)
class DPMpp3M(Sampler):
    """Third order from one evaluation a step: x0 is a parabola in ln(alpha / sigma) through three.

    Its curvature is 2 (d0 - d1) / (r0 + r1) in divided differences d; circulating codes omit
    the 2 and are of second order. The first step and the step to the image are of first order,
    the second step is 2M's: where these do not lie at nearly pure noise and at nearly none, the
    order seen is 2 to 2.5.
    """

    spacing = "trailing"
    finer = "log_snr"

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        schedule, h = denoiser.schedule, log_snrs(denoiser.schedule, times).diff()
        past: list[Tensor] = []
        for k, (t, s) in enumerate(pairwise(times)):
            past = [denoiser(x, t, label), *past[:2]]
            x = first_order(schedule, x, past[0], t, s)
            if k > 0 and s > 0:
                x = x + schedule.alpha(s) * curvature_terms(past, h[max(k - 2, 0) : k + 1])
            yield x


def curvature_terms(past: list[Tensor], h: Tensor) -> Tensor:
    """What the slope and curvature of x0 add over the last of the intervals h, over alpha.

    past holds the estimates of x0 at the starts of h (2 or 3,), newest first.
    """
    step, r0 = h[-1], h[-2] / h[-1]
    p1 = torch.expm1(-step)
    p2 = p1 / step + 1
    d0 = (past[0] - past[1]) / r0
    if len(past) == 2:
        return -p1 / 2 * d0
    r1 = h[-3] / step
    d1 = (past[1] - past[2]) / r1
    slope = d0 + r0 / (r0 + r1) * (d0 - d1)
    return p2 * slope - (p2 / step - 0.5) * 2 * (d0 - d1) / (r0 + r1)
