"""DDIM (Song et al. 2021, equation 12)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler.base import Noise, Sampler, check_range, posterior_variance


@dataclass(frozen=True)
class DDIM(Sampler):
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std z: image, direction and noise.

    eps is the noise that x_t holds if x0 is right, and z is new. `eta` scales std (equation 16): 0
    is deterministic, 1 the posterior's standard deviation, hence DDPM's ancestral sampling with
    the smaller variance. The clamps undo rounding below 0.
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
            eps = (x - schedule.alpha(t) * x0) / schedule.sigma(t)
            std = self.eta * posterior_variance(schedule, t, s).clamp(min=0).sqrt()
            direction = (schedule.sigma(s) ** 2 - std**2).clamp(min=0).sqrt() * eps
            x = schedule.alpha(s) * x0 + direction
            if self.eta > 0 and s > 0:
                x = x + std * noise(x)
            yield x
