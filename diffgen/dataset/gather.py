"""Images from the files of a store: decoded at once where they fit, else on access."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.dataset.decode import Decoder, header
from diffgen.dataset.images import Images, fingerprint_of, in_memory
from diffgen.dataset.store import Store
from diffgen.errors import UsageError

GIB = 2**30
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Streamed:
    """Pixels that stay in their files: `[index]` decodes those images, `shape` is (N, C, H, W)."""

    store: Store
    names: Sequence[str]
    decoder: Decoder
    shape: tuple[int, ...]

    def __getitem__(self, index: Tensor) -> Tensor:
        """The images at `index` (B,), as uint8 (B, C, H, W)."""
        pixels = torch.empty(len(index), *self.shape[1:], dtype=torch.uint8)
        for row, number in enumerate(index.tolist()):
            self.read(number, pixels[row])
        return pixels

    def read(self, number: int, into: Tensor) -> None:
        """Decodes one image; UsageError where its file has another shape than the set."""
        pixels = torch.from_numpy(self.decoder(self.store, self.names[number]))
        if pixels.shape != into.shape:
            raise UsageError(
                f"{self.names[number]} in {self.store.path} is {_size(*pixels.shape[1:])}, not "
                f"{_size(*into.shape[1:])}; set dataset.size"
            )
        into.copy_(pixels)


def gather(
    streamed: Streamed,
    labels: Tensor | None,
    classes: tuple[str, ...],
    name: str,
    memory_limit: float,
) -> Images:
    """The images, in memory where N*C*H*W bytes are at most `memory_limit` GiB, else streamed."""
    if torch.Size(streamed.shape).numel() > memory_limit * GIB:
        return Images(streamed, labels, classes, name, _fingerprint(streamed, labels))
    log.info("decoding %d images of %s into memory", len(streamed.names), name)
    pixels = torch.empty(streamed.shape, dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        for _ in pool.map(
            lambda number: streamed.read(number, pixels[number]), range(len(pixels))
        ):
            pass
    return in_memory(pixels, labels, classes, name)


def survey(
    store: Store, names: Sequence[str], size: int | None, channels: int | None
) -> tuple[int, int, int]:
    """(C, H, W) that the files will have; their headers are read only for what is not given.

    Without `channels`, 3 where any file is in colour, else 1. UsageError, naming two files, where
    they differ in size and no `size` is given.
    """
    if size is not None and channels is not None:
        return channels, size, size
    with ThreadPoolExecutor() as pool:
        headers = list(pool.map(lambda name: header(store, name), names))
    sizes = [(height, width) for height, width, _ in headers]
    if size is None and len(set(sizes)) > 1:
        other = next(number for number, each in enumerate(sizes) if each != sizes[0])
        raise UsageError(
            f"the images in {store.path} differ in size: {names[0]} is {_size(*sizes[0])}, "
            f"{names[other]} is {_size(*sizes[other])}; set dataset.size=N to resize them"
        )
    channels = channels or (3 if any(colour for _, _, colour in headers) else 1)
    return (channels, size, size) if size else (channels, *sizes[0])


def _size(height: int, width: int) -> str:
    return f"{width}x{height}"


def _fingerprint(streamed: Streamed, labels: Tensor | None) -> str:
    stamps = [f"{name} {streamed.store.stamp(name)}" for name in streamed.names]
    numbers = None if labels is None else labels.tolist()
    return fingerprint_of(repr((streamed.decoder, streamed.shape, stamps, numbers)))
