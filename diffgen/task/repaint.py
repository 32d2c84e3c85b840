"""Known pixels by replacement (Song and Ermon 2019, algorithm 2; Lugmayr et al. 2022)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser, Wrapper
from diffgen.sampler import Sampler
from diffgen.sampler.base import Noise, noised


class KnownPixels(Wrapper):
    """A denoiser with the true pixels, as noisy as the others, in place of the known ones.

    image (B, C, H, W), known bool, to broadcast against it. There x_t becomes alpha image +
    sigma noise, and the estimate is the image itself. Replacing them in the input is the papers'
    replacement after each step, since no step mixes pixels.
    """

    def __init__(self, denoiser: Denoiser, image: Tensor, known: Tensor) -> None:
        super().__init__(denoiser)
        self.image, self.known, self.noise = image, known, torch.zeros_like(image)

    def set_noise(self, noise: Tensor) -> None:
        """Use this unit noise for the known pixels from now on (B, C, H, W)."""
        self.noise = noise

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = self.schedule.at(t, x_t)
        replaced = torch.where(self.known, alpha * self.image + sigma * self.noise, x_t)
        return torch.where(self.known, self.image, self.denoiser(replaced, t, label))


def repaint(
    sampler: Sampler,
    known: KnownPixels,
    x: Tensor,
    times: Tensor,
    label: Tensor | None,
    noise: Noise,
    resample: int,
    jump: int,
) -> Tensor:
    """Sample from x (B, C, H, W) at times[0], each part of the times `resample` times.

    A part is `jump` intervals; before each repetition x is noised back to the start of it
    (RePaint, algorithm 1). The step to the image is not repeated: it takes the mean, and means of
    means would lose the variance. With few resamplings the unknown pixels depend too little on
    the known ones.
    """
    if resample == 1:
        return _sample(sampler, known, x, times, label, noise)
    for part in parts_of(times[:-1], jump):
        x = _sample(sampler, known, x, part, label, noise)
        for _ in range(resample - 1):
            x = noised(known.schedule, x, part[-1], part[0], noise(x))
            x = _sample(sampler, known, x, part, label, noise)
    return _sample(sampler, known, x, times[-2:], label, noise)


def parts_of(times: Tensor, jump: int) -> Iterator[Tensor]:
    """Consecutive parts of `times` of `jump` intervals, the last one maybe shorter."""
    for first in range(0, len(times) - 1, jump):
        yield times[first : first + jump + 1]


@torch.no_grad()
def _sample(
    sampler: Sampler,
    known: KnownPixels,
    x: Tensor,
    times: Tensor,
    label: Tensor | None,
    noise: Noise,
) -> Tensor:
    """x at times[-1], with new noise for the known pixels after each interval."""
    known.set_noise(noise(x))
    for state in sampler.trajectory(known, x, times, label, noise):
        x = state
        known.set_noise(noise(x))
    return x
