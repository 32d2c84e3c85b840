"""Known pixels by replacement (Song and Ermon 2019, algorithm 2; Lugmayr et al. 2022)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler import Sampler
from diffgen.sampler.base import Noise, noised


class Known(Denoiser):
    """A denoiser that sees the truth, as noisy as the rest, in place of the known pixels.

    image (B, C, H, W), known bool, to broadcast against it. With `noise` held, x_t has
    alpha image + sigma noise there, and the estimate is the image itself; pasting into the input
    is the papers' pasting after each move, since no move mixes pixels.
    """

    def __init__(self, denoiser: Denoiser, image: Tensor, known: Tensor) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.image, self.known, self.noise = image, known, torch.zeros_like(image)

    def renew(self, noise: Tensor) -> None:
        """From now on the known pixels carry this unit noise (B, C, H, W)."""
        self.noise = noise

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = self.schedule.at(t, x_t)
        pasted = torch.where(self.known, alpha * self.image + sigma * self.noise, x_t)
        return torch.where(self.known, self.image, self.denoiser(pasted, t, label))


def replaced(
    sampler: Sampler,
    known: Known,
    x: Tensor,
    times: Tensor,
    label: Tensor | None,
    noise: Noise,
    resample: int,
    jump: int,
) -> Tensor:
    """The way back from x (B, C, H, W) at times[0], each stretch of it gone `resample` times.

    A stretch is `jump` intervals; between two goes x is noised back to the start of it (RePaint,
    algorithm 1). The step to the image is not repeated: it takes the mean, and means of means
    would lose the variance. Unknown pixels lean on noisy known ones, and with few resamplings
    the known are heard too little.
    """
    if resample == 1:
        return _once(sampler, known, x, times, label, noise)
    for part in stretches(times[:-1], jump):
        x = _once(sampler, known, x, part, label, noise)
        for _ in range(resample - 1):
            x = noised(known.schedule, x, part[-1], part[0], noise(x))
            x = _once(sampler, known, x, part, label, noise)
    return _once(sampler, known, x, times[-2:], label, noise)


def stretches(times: Tensor, jump: int) -> Iterator[Tensor]:
    """Consecutive parts of `times` of `jump` intervals, the last one maybe shorter."""
    for first in range(0, len(times) - 1, jump):
        yield times[first : first + jump + 1]


@torch.no_grad()
def _once(
    sampler: Sampler,
    known: Known,
    x: Tensor,
    times: Tensor,
    label: Tensor | None,
    noise: Noise,
) -> Tensor:
    """x at times[-1], the known pixels' noise drawn anew once for each interval."""
    known.renew(noise(x))
    for state in sampler.trajectory(known, x, times, label, noise):
        x = state
        known.renew(noise(x))
    return x
