"""Colorization (Song et al. 2021, appendix I.2): the grey axis is known, the other two are not."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.task.edit import beside
from diffgen.task.filling import Filling
from diffgen.task.inputs import LoadedImages
from diffgen.task.turned import Turned, grey_first, turn


@dataclass(frozen=True, kw_only=True)
class Colorize(Filling):
    """Colours for grey pictures; of colour pictures the mean of the channels is kept.

    The axes of colour are turned so that the first is grey, and this channel is what is known.
    The mean of the channels comes back within rounding, where no channel leaves the range.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shape[0] != 3:
            raise UsageError(f"task=colorize needs a model of 3 channels, not {self.shape[0]}")

    @cached_property
    def given(self) -> LoadedImages:
        return self.inputs.load(self.image, self.resize, grey=True)

    def draw(self, images: Sequence[int], device: torch.device) -> Tensor:
        axes, noise = grey_first(3).to(device, torch.float32), self.noise(images)
        image = turn(self.clean(images, device), axes)
        known = torch.tensor([True, False, False], device=device).reshape(1, 3, 1, 1)
        x = turn(self.begin(image, noise), axes)
        filled = self.filled(Turned(self.denoiser, axes), x, image, known, images, noise)
        return turn(filled, axes.T)

    def files(self, images: Tensor) -> dict[str, Tensor]:
        grey = self.given.pixels.float().mean(1, keepdim=True).round().byte()
        return beside(images, self.given.pixels, grey.expand_as(self.given.pixels))
