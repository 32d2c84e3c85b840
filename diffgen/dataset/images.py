"""A set of images as every room sees it: 8-bit pixels, labels, names and a fingerprint."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from diffgen.errors import UsageError, one_line
from diffgen.files import sha256

Split = Literal["train", "test"]


class Pixels(Protocol):
    """What holds the pixels: a uint8 tensor (N, C, H, W), or an object that decodes on access."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        ...

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """The images at `index` (B,) int64, as uint8 (B, C, H, W)."""
        ...


@dataclass(frozen=True, eq=False)
class Chosen:
    """The pixels at `rows` (n,) int64 of a set, which are read when they are asked for."""

    pixels: Pixels
    rows: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), *self.pixels.shape[1:]

    def __getitem__(self, index: Tensor, /) -> Tensor:
        return self.pixels[self.rows[index]]


@dataclass(frozen=True, eq=False)
class Grey:
    """The first channel of the pixels of a set, once or, for readers of colour, three times."""

    pixels: Pixels
    channels: Literal[1, 3]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pixels.shape[0], self.channels, *self.pixels.shape[2:]

    def __getitem__(self, index: Tensor, /) -> Tensor:
        return self.pixels[index][:, :1].expand(-1, self.channels, -1, -1)


@dataclass(frozen=True, eq=False)
class Images:
    """N images of one shape, with the labels and class names where they are known.

    `labels` is (N,) int64 or None, `classes` is () when unlabelled; `fingerprint` changes with
    the content (when streaming: with the list of files and their sizes and times or checksums).
    """

    pixels: Pixels
    labels: Tensor | None
    classes: tuple[str, ...]
    name: str
    fingerprint: str

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def at(self, index: Tensor) -> Tensor:
        """The pixels at `index` (B,) int64, as uint8 (B, C, H, W)."""
        if isinstance(self.pixels, Tensor):
            return self.pixels.index_select(0, index)  # copies rows: 8 times as fast as [index]
        return self.pixels[index]


class Source(Protocol):
    """A place that images come from; `flip` tells whether training mirrors half of them."""

    @property
    def flip(self) -> bool: ...

    def split(self, which: Split) -> Images: ...


def in_memory(
    pixels: Tensor, labels: Tensor | None, classes: tuple[str, ...], name: str
) -> Images:
    """The images of a uint8 tensor (N, C, H, W); the fingerprint is a hash of what they hold."""
    described = repr((tuple(pixels.shape), None if labels is None else labels.tolist()))
    return Images(pixels, labels, classes, name, fingerprint_of(described, pixels))


def fingerprint_of(*parts: str | Tensor) -> str:
    """The first 128 bits of the SHA-256 of what an image set holds, in hexadecimal."""
    return sha256(parts)[:32]


def numbered_as(images: Images, classes: tuple[str, ...]) -> Images:
    """The images with labels that count as in `classes`, those that a model learned.

    UsageError where an image is of a class that the model never saw.
    """
    if not classes or images.labels is None or images.classes == classes:
        return images
    number = {name: index for index, name in enumerate(classes)}
    present = [images.classes[label] for label in images.labels.unique().tolist()]
    if unknown := [name for name in present if name not in number]:
        raise UsageError(
            f"{images.name} has images of {listed(unknown)}, and the model learned "
            f"{listed(classes)}",
            "set dataset.root=FOLDER to the images that it learned, or train anew",
        )
    new = torch.tensor([number.get(name, 0) for name in images.classes])
    fingerprint = fingerprint_of(images.fingerprint, repr(classes))
    return replace(images, labels=new[images.labels], classes=classes, fingerprint=fingerprint)


LISTED = 12  # classes that one line names
COLOURS = {1: "grey", 3: "in colour", 4: "in colour with transparency"}


def described(images: Images) -> str:
    """What a set holds, in one line: how many images, their shape, and how many of each class."""
    count, channels, height, width = images.pixels.shape
    text = f"{count} image{'s' * (count != 1)} of {width}x{height}, {COLOURS[channels]}"
    if images.labels is None:
        return f"{text}, without labels"
    counts = images.labels.bincount(minlength=len(images.classes)).tolist()
    each = [f"{name} ({n})" for name, n in zip(images.classes, counts, strict=True)]
    return f"{text}, in {len(each)} class{'es' * (len(each) != 1)}: {listed(each)}"


def listed(names: Sequence[str]) -> str:
    """The first names, for a line of text."""
    return one_line(", ".join(names[:LISTED])) + (", ..." if len(names) > LISTED else "")


def shape_of(images: Images) -> tuple[int, int, int]:
    """(C, H, W) of one image; UsageError unless it is square, as the networks need."""
    _, channels, height, width = images.pixels.shape
    if height != width:
        raise UsageError(
            f"the images of {images.name} are {width}x{height}, and networks need square ones",
            f"dataset.size={min(height, width)} keeps the middle square of each, any other N "
            "resizes it as well",
        )
    return channels, height, width


def check_alike(name: str, shape: Sequence[int], theirs: Images, remedy: str) -> None:
    """UsageError where images of `shape` (C, H, W) would be compared with those of another one."""
    other = theirs.pixels.shape[1:]
    if tuple(shape) != tuple(other):
        mine, them = (f"{w}x{h} of {c} channel{'s' * (c != 1)}" for c, h, w in (shape, other))
        raise UsageError(f"the images of {name} are {mine}, those of {theirs.name} {them}", remedy)


def check_split(which: str) -> None:
    """UsageError unless `which` is one of the two splits."""
    if which not in ("train", "test"):
        raise UsageError(f"no split {which!r}; there is train, test")
