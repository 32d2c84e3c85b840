"""From image files to 8-bit pixels of the wanted channels and size, at once or on access.

- Grey of 16 bits is scaled: round(value / 257), so that 65535 becomes 255; 1 bit becomes 0 or 255.
- A palette is looked up. Colour of 16 bits per channel keeps its high bytes (by Pillow).
- Transparency is laid over white, unless four channels are wanted.
- Colour to grey is luma, 0.299 R + 0.587 G + 0.114 B; grey to colour is repeated.
- An orientation tag ahead of the pixels is obeyed; of an animation the first frame is taken.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.Image import Image as Picture
from torch import Tensor
from torchvision.transforms import functional

from diffgen.dataset.images import Images, fingerprint_of, in_memory
from diffgen.dataset.store import Store
from diffgen.errors import UsageError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
GREY = {"1", "L", "LA", "La"}
# What a data set may hold: raster formats alone. Pillow also knows EPS, which runs Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
ORIENTATION, TRANSPOSED = 0x0112, (5, 6, 7, 8)
GIB = 2**30
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoder:
    """How files become pixels: to `channels` (1, 3 or 4), cut to `box`, then to `size`.

    `box` is (left, top, right, bottom). With `size` the shorter side is resized to it, bilinear
    and antialiased as by torchvision, and the middle square is kept, as the papers do.
    """

    channels: int
    size: int | None = None
    box: tuple[int, int, int, int] | None = None

    def __call__(self, store: Store, name: str) -> np.ndarray:
        """The pixels of one file, uint8 (C, H, W); UsageError where it cannot be read."""
        with _opened(store, name) as image:
            pixels = np.array(self._fit(convert(_upright(image), self.channels)))
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def _fit(self, image: Picture) -> Picture:
        if self.box is not None:
            image = image.crop(self.box)
        if self.size is None or image.size == (self.size, self.size):
            return image
        shorter = functional.resize(image, [self.size])  # type: ignore[arg-type]
        return functional.center_crop(shorter, [self.size])  # type: ignore[return-value]


def header(store: Store, name: str) -> tuple[int, int, bool]:
    """(height, width, whether in colour) of one file, from its first bytes."""
    with _opened(store, name) as image:
        transposed = "exif" in image.info and image.getexif().get(ORIENTATION) in TRANSPOSED
        width, height = reversed(image.size) if transposed else image.size
        return height, width, image.mode not in GREY and not _deep(image)


def convert(image: Picture, channels: int) -> Picture:
    """The image with 8 bits in each of 1, 3 or 4 channels, by the rules above."""
    if _deep(image):
        image = _scaled(image)
    if image.has_transparency_data and channels != 4:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(MODES[channels])


def _upright(image: Picture) -> Picture:
    # without tags in its header Pillow would decode a whole PNG to look for some behind it
    return ImageOps.exif_transpose(image) if "exif" in image.info else image


def _deep(image: Picture) -> bool:
    return image.mode.startswith(("I", "F"))


def _scaled(image: Picture) -> Picture:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its pixels are not 8 or 16 bit ({image.mode})")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


@contextmanager
def _opened(store: Store, name: str) -> Iterator[Picture]:
    try:
        with store.open(name) as file, Image.open(file, formats=FORMATS) as image:
            yield image
    except Exception as error:  # Pillow and zlib raise a dozen kinds on damaged files
        raise UsageError(f"cannot read image {name} in {store.path}: {error}") from error


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
                f"{_size(*into.shape[1:])}",
                "set dataset.size=N to resize them",
            )
        into.copy_(pixels)


def gather(
    store: Store,
    names: Sequence[str],
    decoder: Decoder,
    shape: tuple[int, int, int],
    name: str,
    memory_limit: float,
    labels: Tensor | None = None,
    classes: tuple[str, ...] = (),
) -> Images:
    """The images, each of `shape` (C, H, W), in memory or streamed.

    In memory where N*C*H*W bytes are at most `memory_limit` GiB.
    """
    streamed = Streamed(store, names, decoder, (len(names), *shape))
    if torch.Size(streamed.shape).numel() > memory_limit * GIB:
        return Images(streamed, labels, classes, name, _fingerprint(streamed, labels))
    log.info("decoding %d images of %s into memory", len(names), name)
    pixels = torch.empty(streamed.shape, dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        tasks = range(len(pixels))
        for _ in pool.map(lambda number: streamed.read(number, pixels[number]), tasks):
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
            f"{names[other]} is {_size(*sizes[other])}",
            "set dataset.size=N to resize them",
        )
    channels = channels or (3 if any(colour for _, _, colour in headers) else 1)
    return (channels, size, size) if size else (channels, *sizes[0])


def _size(height: int, width: int) -> str:
    return f"{width}x{height}"


def _fingerprint(streamed: Streamed, labels: Tensor | None) -> str:
    stamps = [f"{name} {streamed.store.stamp(name)}" for name in streamed.names]
    numbers = None if labels is None else labels.tolist()
    return fingerprint_of(repr((streamed.decoder, streamed.shape, stamps, numbers)))
