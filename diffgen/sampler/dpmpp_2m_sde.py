"""SDE-DPM-Solver++(2M) (Lu et al. 2022b), for the reverse-time SDE."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler.base import Noise, Sampler, check_range, log_snrs


@dataclass(frozen=True)
class DPMpp2MSDE(Sampler):
    """2M with new noise at every step but the last: `eta` 0 is 2M itself, 1 the paper's SDE.

    At first order and eta = 1 it is DDPM's ancestral sampling with the smaller variance.
    """

    eta: float = 1.0
    spacing = "trailing"
    finer = "log_snr"

    def __post_init__(self) -> None:
        check_range("eta", self.eta, 0, math.inf)

    def deterministic(self) -> Sampler:
        return replace(self, eta=0.0)

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        schedule, h = denoiser.schedule, log_snrs(denoiser.schedule, times).diff()
        previous = x
        for k, (t, s) in enumerate(pairwise(times)):
            x0 = denoiser(x, t, label)
            if s == 0:
                yield x0
                return
            extrapolation = h[k] / (2 * h[k - 1]) if k > 0 else 0.0
            coef_x = schedule.sigma(s) / schedule.sigma(t) * (-self.eta * h[k]).exp()
            coef_x0 = -schedule.alpha(s) * (-(1 + self.eta) * h[k]).expm1()
            x = coef_x * x + coef_x0 * (x0 + extrapolation * (x0 - previous))
            if self.eta > 0:
                x = x + schedule.sigma(s) * (-(-2 * self.eta * h[k]).expm1()).sqrt() * noise(x)
            previous = x0
            yield x
