"""LoadedImages to edit: files, and the test images of the data set that a checkpoint learned."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from diffgen.config.build import build
from diffgen.dataset.decode import FORMATS, MODES, Decoder
from diffgen.dataset.images import Images, Split
from diffgen.dataset.store import Directory
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
        wanted = [each for name in listed(names) for each in numbers(name)]
        if not wanted:
            raise UsageError(f"task.image={names} names no picture")
        pixels = torch.stack([self._one(name, resize, grey) for name in wanted])
        if any(isinstance(name, str) for name in wanted) or self.test.labels is None:
            return LoadedImages(pixels, None)
        return LoadedImages(pixels, self.test.labels[torch.tensor(wanted)])

    def mask(self, path: str, resize: bool) -> Tensor:
        """Where a black and white file is white, bool (H, W)."""
        (height, width), image = self.checkpoint.shape[1:], opened(path, "task.mask")
        if image.size != (width, height) and not resize:
            raise UsageError(_misfit("task.mask", path, image, f"{width}x{height}"))
        values = np.asarray(image.convert("L").resize((width, height), Image.Resampling.NEAREST))
        if not resize and not np.isin(values, (0, 255)).all():
            raise UsageError(
                f"task.mask={path} is not only black and white: task.resize=true parts it at 128"
            )
        return torch.from_numpy(values > 127)

    @cached_property
    def test(self) -> Images:
        """The held-out images of the data set."""
        return _split(self.checkpoint, self.root, "test")

    def _one(self, name: str | int, resize: bool, grey: bool) -> Tensor:
        """One picture, uint8 (C, H, W)."""
        if isinstance(name, str):
            return self._file(name, resize, grey)
        if not 0 <= name < len(self.test):
            raise UsageError(
                f"task.image={name}: the test set has images 0 to {len(self.test) - 1}"
            )
        return self.test.at(torch.tensor([name]))[0]

    def _file(self, path: str, resize: bool, grey: bool) -> Tensor:
        channels, height, width = self.checkpoint.shape
        image, wanted = opened(path, "task.image"), MODES[channels]
        fits = image.size == (width, height) and image.mode in (wanted, *(("L",) if grey else ()))
        if not fits and not resize:
            raise UsageError(_misfit("task.image", path, image, f"{width}x{height} {wanted}"))
        folder = Directory(expanded(path).parent)
        return torch.from_numpy(Decoder(channels, height)(folder, Path(path).name))


def training_labels(checkpoint: Checkpoint, root: str | None) -> Tensor:
    """The labels (N,) of the images that a checkpoint learned; UsageError where they have none."""
    images = _split(checkpoint, root, "train")
    if images.labels is None:
        raise UsageError(f"labels=data: the images of {images.name} have no labels")
    return images.labels


def _split(checkpoint: Checkpoint, root: str | None, which: Split) -> Images:
    dataset = {**checkpoint.recipe["dataset"], **({"root": root} if root else {})}
    return build("dataset", dataset, checkpoint.trust).split(which)


def listed(names: Names) -> Sequence[str | int]:
    """Names as a list."""
    return names if isinstance(names, list) else [names]


def numbers(name: str | int) -> Sequence[str | int]:
    """The numbers that "7" or "0:5" stands for, or the name of a file itself."""
    if isinstance(name, str) and (span := re.fullmatch(r"(\d+):(\d+)", name)):
        return range(int(span[1]), int(span[2]))
    return [int(name)] if isinstance(name, str) and name.isdecimal() else [name]


def opened(path: str, key: str) -> Image.Image:
    """The header of an image file; UsageError where there is none."""
    try:
        with Image.open(expanded(path), formats=FORMATS) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise UsageError(f"no file {key}={path}") from None
    except (OSError, UnidentifiedImageError) as error:
        raise UsageError(f"{key}={path} is not a picture that can be read ({error})") from None


def _misfit(key: str, path: str, image: Image.Image, wanted: str) -> str:
    found = f"{image.width}x{image.height} {image.mode}"
    return f"{key}={path} is {found}, the model's images are {wanted}: task.resize=true converts"
