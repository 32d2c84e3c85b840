"""Pictures to edit: files, and the test images of the data set that a checkpoint learned."""

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from diffgen.config.build import build, find
from diffgen.dataset.decode import MODES, Decoder, opened
from diffgen.dataset.download import offline
from diffgen.dataset.images import Images, Split, numbered_as
from diffgen.dataset.stores import Directory
from diffgen.dataset.window import Window, windowed
from diffgen.errors import UsageError
from diffgen.files import expanded
from diffgen.runs.checkpoint import Checkpoint
from diffgen.task.inputs import LoadedImages, Names


@dataclass(frozen=True)
class CheckpointInputs:
    """The inputs of a checkpoint; `root` replaces the folder its data set came from."""

    checkpoint: Checkpoint
    root: str | None = None

    def load(self, names: Names, resize: bool, grey: bool = False) -> LoadedImages:
        """Files and test images by number (3, or 0:5 for five), in the model's shape."""
        wanted = [each for name in listed(names) for each in self._within(numbers(name))]
        if not wanted:
            raise UsageError(f"task.image={names} names no picture")
        pixels = torch.stack([self._one(name, resize, grey) for name in wanted])
        if any(isinstance(name, str) for name in wanted) or self.test.labels is None:
            return LoadedImages(pixels, None)
        return LoadedImages(pixels, self.test.labels[torch.tensor(wanted)])

    def mask(self, path: str, resize: bool) -> Tensor:
        """Where a black and white file is white, bool (H, W), by the steps of the pictures."""
        (height, width), image = self.checkpoint.shape[1:], upright(path, "task.mask")
        if image.size != (width, height) and not resize:
            raise UsageError(_misfit("task.mask", path, image, f"{width}x{height}"))
        drawn = _black_and_white(image, path, resize)
        lost = _converted(Decoder(1, height), drawn, f"task.mask={path}")[0] > 127
        if not lost.any():
            raise UsageError(f"task.mask={path} loses nothing: white is lost, black is kept")
        return torch.from_numpy(lost)

    @cached_property
    def test(self) -> Images:
        """The held-out images of the data set."""
        return split_of(self.checkpoint, self.root, "test")

    def _one(self, name: str | int, resize: bool, grey: bool) -> Tensor:
        """One picture, uint8 (C, H, W)."""
        if isinstance(name, str):
            return self._file(name, resize, grey)
        self._within([name])
        return self.test.at(torch.tensor([name]))[0]

    def _within(self, names: Sequence[str | int]) -> Sequence[str | int]:
        """The names; UsageError where one is a number that no test image has."""
        if names and not isinstance(last := names[-1], str) and not 0 <= last < len(self.test):
            raise UsageError(
                f"task.image={last}: the test set has images 0 to {len(self.test) - 1}"
            )
        return names

    def _file(self, path: str, resize: bool, grey: bool) -> Tensor:
        channels, height, width = self.checkpoint.shape
        window = self.checkpoint.recipe["dataset"].get("window")
        image, wanted = upright(path, "task.image", window), MODES[channels]
        fits = image.size == (width, height) and image.mode in (wanted, *(("L",) if grey else ()))
        if not fits and not resize:
            raise UsageError(_misfit("task.image", path, image, f"{width}x{height} {wanted}"))
        decoder = Decoder(channels, height)
        return torch.from_numpy(_converted(decoder, image, f"task.image={path}"))


def _converted(decoder: Decoder, image: Image.Image, what: str) -> np.ndarray:
    try:
        return decoder.pixels(image)
    except ValueError as error:  # a UsageError's remedy is one for data sets
        raise UsageError(f"{what} cannot be converted: {error.args[0]}") from error


def training_labels(checkpoint: Checkpoint, root: str | None) -> Tensor:
    """The labels (N,) of the images that a checkpoint learned; UsageError where they have none."""
    images = split_of(checkpoint, root, "train")
    if images.labels is None:
        raise UsageError(f"labels=data: the images of {images.name} have no labels")
    return images.labels


def split_of(checkpoint: Checkpoint, root: str | None, which: Split) -> Images:
    """A split of a checkpoint's data set, its classes numbered as the checkpoint has them.

    `root` replaces the folder its images came from. Nothing is downloaded without it: where a
    stranger's recipe would put files is nothing that the user asked for.
    """
    dataset = read_from(root, checkpoint.recipe["dataset"], checkpoint.trust)
    with nullcontext() if root else offline():
        images = build("dataset", dataset, checkpoint.trust).split(which)
    return numbered_as(images, checkpoint.classes)


def read_from(
    root: str | None, dataset: Mapping[str, Any], trust: Collection[str] = ()
) -> dict[str, Any]:
    """A data set's settings with another `root`, if one is given; UsageError where it has none."""
    if root is None:
        return dict(dataset)
    name = dataset["name"]
    if "root" not in signature(find("dataset", name, trust)).parameters:
        raise UsageError(
            f"root={root}: the images of {name} are read from no folder; leave it out"
        )
    return {**dataset, "root": root}


def listed(names: Names) -> Sequence[str | int]:
    """Names as a list."""
    return names if isinstance(names, list) else [names]


def numbers(name: str | int) -> Sequence[str | int]:
    """The numbers that "7" or "0:5" stands for, or the name of a file itself."""
    if isinstance(name, str) and (span := re.fullmatch(r"(\d+):(\d+)", name)):
        return range(int(span[1]), int(span[2]))
    return [int(name)] if isinstance(name, str) and name.isdecimal() else [name]


def upright(path: str, key: str, window: Window | None = None) -> Image.Image:
    """A picture from a file, scaled by a window and turned as its tag says.

    UsageError where there is none.
    """
    place = expanded(path)
    if not place.exists():
        raise UsageError(f"no file {key}={path}")
    try:
        with opened(Directory(place.parent), place.name) as image:
            whole = windowed(image, window) if window else image
            whole.load()
            return ImageOps.exif_transpose(whole)
    except UsageError as error:
        reason = error.what.partition(f" in {place.parent}: ")[2]
        raise UsageError(f"{key}={path} is not a picture that can be read ({reason})") from None


def _black_and_white(image: Image.Image, path: str, greys: bool) -> Image.Image:
    """A mask with white where it is lost: of two values 0 is black and the other white.

    UsageError for transparency, which may mean either, and for greys unless `greys` are wanted.
    """
    if image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255:  # type: ignore[index]
        raise UsageError(
            f"task.mask={path} is transparent in places, which may mean lost or kept: "
            "save it in black and white, white where lost"
        )
    values = np.asarray(image if image.mode.startswith(("I", "F")) else image.convert("L"))
    found = np.unique(values).tolist()
    if found in ([0], [1], [255], [65535]) or (len(found) == 2 and found[0] == 0):
        return Image.fromarray(np.where(values, 255, 0).astype(np.uint8))
    if not greys:
        raise UsageError(
            f"task.mask={path} is not only black and white: task.resize=true parts it at half"
        )
    return image


def _misfit(key: str, path: str, image: Image.Image, wanted: str) -> str:
    found = f"{image.width}x{image.height} {image.mode}"
    return f"{key}={path} is {found}, the model's images are {wanted}: task.resize=true converts"
