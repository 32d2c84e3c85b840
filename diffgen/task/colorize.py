"""Colorization (Song et al. 2021, appendix I.2): the grey axis is known, the other two are not."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser, Wrapper
from diffgen.errors import UsageError
from diffgen.task.conditioning import Conditioning, Given
from diffgen.task.edit import Edit, beside
from diffgen.task.inputs import LoadedImages


@dataclass(frozen=True, kw_only=True)
class Colorize(Conditioning, Edit):
    """Colours for grey pictures; of colour pictures the mean of the channels is kept.

    The axes of colour are turned so that the first is grey, and this channel is what is known.
    The mean of the channels comes back within rounding, where no channel leaves the range.
    """

    def __post_init__(self) -> None:
        self.check(self)
        if self.shape[0] != 3:
            raise UsageError(f"task=colorize needs a model of 3 channels, not {self.shape[0]}")

    @cached_property
    def given(self) -> LoadedImages:
        return self.inputs.load(self.image, self.resize, grey=True)

    def draw(self, images: Sequence[int], device: torch.device) -> Tensor:
        axes, noise = grey_first(3).to(device, torch.float32), self.noise(images)
        image = rotate(self.clean(images, device), axes)
        known = torch.tensor([True, False, False], device=device).reshape(1, 3, 1, 1)
        x = rotate(self.begin(image, noise), axes)
        denoiser = _RotatedColors(self.denoiser, axes)
        given = Given(denoiser, image, known, self.label(images, device))
        return rotate(self.fill(self, x, given, noise), axes.T)

    def files(self, images: Tensor) -> dict[str, Tensor]:
        grey = self.given.pixels.float().mean(1, keepdim=True).round().byte()
        return beside(images, self.given.pixels, grey.expand_as(self.given.pixels))


class _RotatedColors(Wrapper):
    """A denoiser of c = axes x, channels rotated by an orthogonal matrix `axes` (C, C).

    Noise is the same in all axes, so that schedule and samplers stay the same.
    """

    def __init__(self, denoiser: Denoiser, axes: Tensor) -> None:
        super().__init__(denoiser)
        self.axes = axes

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        x0 = self.denoiser(rotate(x_t, self.axes.T), t, label)
        return rotate(x0, self.axes)


def rotate(x: Tensor, axes: Tensor) -> Tensor:
    """axes (C, C) times the channels of x (B, C, H, W)."""
    return (axes.to(x)[:, :, None, None] * x[:, None]).sum(2)  # no product that autocast rounds


def grey_first(channels: int) -> Tensor:
    """An orthogonal matrix (C, C) float64 whose first row is grey, 1 / sqrt(C) in each channel."""
    start = torch.eye(channels, dtype=torch.float64)
    start[:, 0] = 1
    axes, signs = torch.linalg.qr(start)
    return (axes * signs.diagonal().sign()).T
