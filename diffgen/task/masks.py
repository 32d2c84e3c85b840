"""Masks: which pixels a picture has lost."""

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from diffgen.errors import UsageError

Stream = np.random.Generator


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


def named(name: str) -> Callable[[int, int, Stream], Tensor] | None:
    """The mask of a name, `every_K` among them; None for what must be a file."""
    found = re.fullmatch(r"every_([0-9]{1,9})", name)
    if not found:
        return MASKS.get(name)
    if (k := int(found[1])) < 2:
        raise UsageError(f"task.mask={name} loses nothing: take every_2 or more")
    return every(k)


def masks(name: str, seed: int, count: int, height: int, width: int) -> Tensor | None:
    """The lost pixels of `count` pictures, bool (count, H, W); None for what must be a file.

    Chance comes from the seed and the picture's number alone.
    """
    mask = named(name)
    if mask is None:
        return None
    streams = (np.random.default_rng([seed, k]) for k in range(count))
    return torch.stack([mask(height, width, stream) for stream in streams])
