"""DDIM (Song et al. 2021, equation 12)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler.base import Noise, Sampler, check_range, posterior_variance


@dataclass(frozen=True)
class DDIM(Sampler):
    """`eta` scales the standard deviation of fresh noise: 0 deterministic, 1 the posterior's.

    With eta = 1 it is DDPM's ancestral sampling with the smaller variance.
    """

    eta: float = 0.0
    spacing = "trailing"

    def __post_init__(self) -> None:
        check_range("eta", self.eta, 0, 1)

    def deterministic(self) -> Sampler:
        return replace(self, eta=0.0)

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        schedule = denoiser.schedule
        for t, s in pairwise(times):
            x0 = denoiser(x, t, label)
            fresh = self.eta * posterior_variance(schedule, t, s).clamp(min=0).sqrt()
            kept = (schedule.sigma(s) ** 2 - fresh**2).clamp(min=0).sqrt() / schedule.sigma(t)
            x = kept * x + (schedule.alpha(s) - kept * schedule.alpha(t)) * x0
            if self.eta > 0 and s > 0:
                x = x + fresh * noise(x)
            yield x
