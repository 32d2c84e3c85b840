"""Tasks that start from pictures."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffgen.dataset.pixels import enlarge, grid
from diffgen.errors import UsageError
from diffgen.sampler import Sampler
from diffgen.task.base import Task, by_turns, on
from diffgen.task.inputs import InputImages, LoadedImages, Names, digest

ROWS = 16  # pictures that a sheet shows


@dataclass(frozen=True, kw_only=True)
class Edit(Task, abc.ABC):
    """Makes `each` images of every picture: image i is made from picture i // each.

    image: files, or numbers in the test set (7, or 0:10 for ten); resize: whether files of
    another size or kind are converted. Without `labels` the model is called without any.
    """

    inputs: InputImages
    image: Names
    resize: bool = False

    @property
    @abc.abstractmethod
    def each(self) -> int:
        """Images made of one picture."""

    @cached_property
    def given(self) -> LoadedImages:
        return self.inputs.load(self.image, self.resize)

    @property
    def count(self) -> int:
        return len(self.given) * self.each

    @property
    def content(self) -> str:
        return digest(self.given.pixels)

    @property
    def unconditional(self) -> bool:
        return not self.labels

    def classes(self) -> Tensor | None:
        if self.labels is None and self.given.labels is not None:
            return self.given.labels.repeat_interleave(self.each)
        return by_turns(self.labels, range(self.count))

    def label(self, images: Sequence[int], device: torch.device) -> Tensor | None:
        """The labels that the model is given for these images, (B,) or None."""
        return on(by_turns(self.labels, images), device)

    def clean(self, images: Sequence[int], device: torch.device) -> Tensor:
        """The pictures that these images are made from, in the model's range, (B, C, H, W)."""
        own = [image // self.each for image in images]
        return self.pixel_range.to_model(self.given.pixels[own]).to(device)


def beside(images: Tensor, *columns: Tensor) -> dict[str, Tensor]:
    """Each image as a picture, and the sheet: to the right of `columns` (rows, ...), in rows."""
    several = images.unflatten(0, (len(columns[0]), -1))
    before = [column[:, None] for column in columns]
    single = {
        f"images/{row:03}_{column:02}.png": image
        for row, images in enumerate(several)
        for column, image in enumerate(images)
    }
    return {"samples.png": joined(torch.cat([*before, several], 1)[:ROWS]), **single}


def joined(sheet: Tensor) -> Tensor:
    """Images uint8 (rows, columns, C, H, W) as one enlarged picture."""
    return enlarge(grid(sheet.flatten(0, 1), columns=sheet.shape[1]))


def at_least(key: str, value: int, least: int) -> None:
    """UsageError where a number is too small."""
    if value < least:
        raise UsageError(f"task.{key}={value}: take {least} or more")


def check_takes_steps(sampler: Sampler, purpose: str) -> None:
    """UsageError for a sampler that chooses its own steps, image by image."""
    if not sampler.takes_steps:
        raise UsageError(
            f"{purpose} needs a sampler that takes the same steps with all images, and "
            f"{type(sampler).__name__} chooses them for each: take sampler=heun"
        )
