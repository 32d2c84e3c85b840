"""From the bytes of an image file to 8-bit pixels of the wanted channels and size.

- Grey of 16 bits is scaled: round(value / 257), so that 65535 becomes 255; 1 bit becomes 0 or 255.
- A palette is looked up. Colour of 16 bits per channel keeps its high bytes (by Pillow).
- Transparency is laid over white, unless four channels are wanted.
- Colour to grey is luma, 0.299 R + 0.587 G + 0.114 B; grey to colour is repeated.
- An orientation tag ahead of the pixels is obeyed; of an animation the first frame is taken.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps
from PIL.Image import Image as Picture
from torchvision.transforms import functional

from diffgen.dataset.store import Store
from diffgen.errors import UsageError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
GREY = {"1", "L", "LA", "La"}
ORIENTATION, TRANSPOSED = 0x0112, (5, 6, 7, 8)


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
        with store.open(name) as file, Image.open(file) as image:
            yield image
    except Exception as error:  # Pillow and zlib raise a dozen kinds on damaged files
        raise UsageError(f"cannot read image {name} in {store.path}: {error}") from error
