"""The one loss: the squared error of the network's estimate, read as an error of eps.

NCSN's sigma^2-weighted denoising score matching (Song and Ermon 2019, equation 6) and DDPM's
L_simple (Ho et al. 2020, equation 14) are this function with other schedules and predictions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.denoiser.base import Preconditioned
from diffgen.schedule.base import match
from diffgen.training.bound import Bound
from diffgen.training.draws import Draws
from diffgen.training.times import Times
from diffgen.training.weighting import Weighting, snr_of


@dataclass(frozen=True)
class Loss:
    """Errors of a denoiser on noised images.

    `per_batch` gives a whole batch one time; `total` sums over pixels instead of averaging (and
    halves, as NCSN does), which matters to gradient clipping and to Adam's epsilon. `bound` is
    added where the network learns its variance (Nichol and Dhariwal 2021, equation 16).
    """

    denoiser: Preconditioned
    times: Times
    weighting: Weighting
    per_batch: bool = False
    total: bool = False
    bound: Bound | None = None

    @property
    def learner(self) -> Preconditioned:
        """What is trained."""
        return self.denoiser

    def __call__(self, x0: Tensor, label: Tensor | None, draws: Draws) -> tuple[Tensor, Tensor]:
        """Errors (b,) of clean images x0 (b, C, H, W) and the times t (b,) they were noised to."""
        schedule, prediction = self.denoiser.schedule, self.denoiser.prediction
        t = self.draw_times(draws)
        eps = draws.normal(x0)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x_t = match(alpha, x0) * x0 + match(sigma, x0) * eps
        a, b = prediction.target(alpha, sigma)
        target = match(a, x0) * x0 + match(b, x0) * eps
        outputs = self.denoiser.outputs(x_t, t, label)
        raw = outputs[:, : x0.shape[1]]
        error = self.reduced((raw - target).square())
        error = match(self._weight(t), error[:, None])[:, 0] * error
        if self.bound:
            error = error + self.reduced(
                self.bound(x0, self.denoiser.image(x_t, t, raw), outputs, t)
            )
        return error, t

    def reduced(self, values: Tensor) -> Tensor:
        """One number (b,) for the pixels of each image."""
        return values.flatten(1).sum(1) / 2 if self.total else values.flatten(1).mean(1)

    def draw_times(self, draws: Draws) -> Tensor:
        """The times (b,) of this part of the batch."""
        u, schedule = draws.uniform("time"), self.denoiser.schedule
        t = self.times(u[:1], schedule).expand_as(u) if self.per_batch else self.times(u, schedule)
        return draws.here(t)

    def _weight(self, t: Tensor) -> Tensor:
        """Weight (b,) of the squared error of F, which is out of x0 and alpha / sigma of eps."""
        schedule = self.denoiser.schedule
        _, out, _ = self.denoiser.prediction.coefficients(schedule.alpha(t), schedule.sigma(t))
        return self.weighting(schedule, t) * torch.square(out) * snr_of(schedule, t)
