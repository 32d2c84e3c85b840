"""DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler.base import Noise, Sampler, first_order, log_snrs


@dataclass(frozen=True)
class DPMpp2M(Sampler):
    """Second order from one evaluation a step: x0 is extrapolated in ln(alpha / sigma).

    The first step and the step to the image are of first order; with trailing spacing the last
    step makes most of the error that remains.
    """

    spacing = "trailing"
    finer = "log_snr"

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        schedule, h = denoiser.schedule, log_snrs(denoiser.schedule, times).diff()
        previous = None  # the x0 of the step before
        for k, (t, s) in enumerate(pairwise(times)):
            x0 = denoiser(x, t, label)
            extrapolated = x0
            if previous is not None and s > 0:
                extrapolated = x0 + h[k] / (2 * h[k - 1]) * (x0 - previous)
            x = first_order(schedule, x, extrapolated, t, s)
            previous = x0
            yield x
