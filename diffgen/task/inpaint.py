"""Inpainting: lost pixels from the ones that are left."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from diffgen.dataset.pixels import grid
from diffgen.errors import UsageError
from diffgen.task.conditioning import Conditioning, Given
from diffgen.task.edit import ROWS, Edit, beside
from diffgen.task.inputs import digest

Stream = np.random.Generator
LOST = 128  # how a lost pixel is shown


def left(height: int, width: int, stream: Stream) -> Tensor:
    """The left half is lost; True where it is, bool (H, W), as of every mask here."""
    return (torch.arange(width) < width // 2).expand(height, width)


def right(height: int, width: int, stream: Stream) -> Tensor:
    """The right half."""
    return left(height, width, stream).flip(1)


def top(height: int, width: int, stream: Stream) -> Tensor:
    """The upper half."""
    return left(width, height, stream).T


def bottom(height: int, width: int, stream: Stream) -> Tensor:
    """The lower half."""
    return right(width, height, stream).T


def center(height: int, width: int, stream: Stream) -> Tensor:
    """A box of half the height and half the width in the middle."""
    return box(height, width, height // 4, width // 4)


def random(height: int, width: int, stream: Stream) -> Tensor:
    """A box of half the height and half the width, anywhere."""
    row, column = (int(stream.integers(n - n // 2 + 1)) for n in (height, width))
    return box(height, width, row, column)


def box(height: int, width: int, row: int, column: int) -> Tensor:
    """A box of half the size with this upper left corner."""
    lost = torch.zeros(height, width, dtype=torch.bool)
    lost[row : row + height // 2, column : column + width // 2] = True
    return lost


def every(k: int) -> Callable[[int, int, Stream], Tensor]:
    """All pixels but every k-th one of every k-th row."""

    def lost(height: int, width: int, stream: Stream) -> Tensor:
        mask = torch.ones(height, width, dtype=torch.bool)
        mask[::k, ::k] = False
        return mask

    return lost


MASKS: dict[str, Callable[[int, int, Stream], Tensor]] = {
    f.__name__: f for f in (left, right, top, bottom, center, random)
}


def masks(name: str, seed: int, count: int, height: int, width: int) -> Tensor | None:
    """The lost pixels of `count` pictures, bool (count, H, W); None for what must be a file.

    Chance comes from the seed and the picture's number alone.
    """
    mask = MASKS.get(name)
    if found := re.fullmatch(r"every_([0-9]{1,9})", name):
        if int(found[1]) < 2:
            raise UsageError(f"task.mask={name} loses nothing: take every_2 or more")
        mask = every(int(found[1]))
    if mask is None:
        return None
    streams = (np.random.default_rng([seed, k]) for k in range(count))
    return torch.stack([mask(height, width, stream) for stream in streams])


@dataclass(frozen=True, kw_only=True)
class Inpaint(Conditioning, Edit):
    """The known pixels come back bit by bit, the lost ones fit them.

    mask: what is lost. left, right, top, bottom half; center or random box of half the height
    and width; every_K, all but every K-th pixel of every K-th row; or a file, white where lost.
    """

    mask: str = "right"

    def __post_init__(self) -> None:
        self.check(self)

    @cached_property
    def lost(self) -> Tensor:
        """Where each picture has lost its pixels, bool (N, 1, H, W)."""
        _, height, width = self.shape
        found = masks(self.mask, self.seed, len(self.given), height, width)
        if found is None:
            if "." not in self.mask and "/" not in self.mask:
                raise UsageError(
                    f"no task.mask={self.mask}; there is {', '.join(MASKS)}, every_2 and so on, "
                    "or the path of a file"
                )
            found = self.inputs.mask(self.mask, self.resize).expand(len(self.given), -1, -1)
        return found[:, None]

    @property
    def content(self) -> str:
        return digest(self.given.pixels, self.lost)

    def draw(self, images: Sequence[int], device: torch.device) -> Tensor:
        noise, image = self.noise(images), self.clean(images, device)
        known = ~self.lost[[i // self.each for i in images]].to(device)
        x = self.begin(image, noise)
        given = Given(self.denoiser, image, known, self.label(images, device))
        return self.fill(self, x, given, noise)

    def files(self, images: Tensor) -> dict[str, Tensor]:
        masked = torch.where(self.lost, LOST, self.given.pixels)
        used = self.lost[:ROWS] if self.mask == "random" else self.lost[:1]
        shown = grid(255 * used.byte(), columns=1, gap=0)
        return {**beside(images, self.given.pixels, masked), "mask.png": shown}
