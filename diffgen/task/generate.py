"""Generation: images from nothing but noise and labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.model import Denoiser
from diffgen.pixels import Range
from diffgen.sampler import Sampler, SeededNoise
from diffgen.sampler.start import Start


@dataclass(frozen=True)
class Generate:
    """Draws image i from the noise stream (seed, i), whatever batch it is in.

    `shape` (C, H, W) is one image's; `start` makes the state at times[0].
    """

    denoiser: Denoiser
    sampler: Sampler
    times: Tensor
    start: Start
    pixel_range: Range
    shape: tuple[int, int, int]
    seed: int

    def __call__(
        self, images: Sequence[int], labels: Tensor | None, device: torch.device
    ) -> Tensor:
        """Images uint8 (B, C, H, W) of these numbers, with their labels (B,) or None."""
        noise = SeededNoise(self.seed, images)
        like = torch.empty(len(images), *self.shape, device=device)
        bounds = self.pixel_range.low, self.pixel_range.high
        x = self.start(self.denoiser.schedule, self.times[0], like, noise, bounds)
        label = None if labels is None else labels.to(device)
        x = self.sampler(self.denoiser, x, self.times, label, noise)
        return self.pixel_range.to_uint8(x).cpu()
