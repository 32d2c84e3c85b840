"""From one image file to 8-bit pixels of the wanted channels and size.

- Grey of more than 8 bits is scaled: round(value / 257), so that 65535 becomes 255. 1 bit becomes
  0 or 255. A palette is looked up. Colour of 16 bits per channel keeps its high bytes (by Pillow).
- With a window all values are scaled from its two values to 0 and 255, colours of a PNG of 16 bits
  in full, too.
- Transparency is laid over white, unless four channels are wanted.
- Colour to grey is luma, 0.299 R + 0.587 G + 0.114 B; grey to colour is repeated.
- An orientation tag ahead of the pixels is obeyed; of an animation the first frame is taken.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.Image import Image as Picture
from torchvision.transforms import functional

from diffgen.dataset.store import Store
from diffgen.dataset.window import Window, deep, scaled, values_of, windowed
from diffgen.errors import UsageError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
GREY = {"1", "L", "LA", "La"}
# What a data set may hold: raster formats alone. Pillow also knows EPS, which runs Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "JPEG2000", "BMP", "GIF", "TIFF", "PPM")
ORIENTATION, TRANSPOSED = 0x0112, (5, 6, 7, 8)
THINNEST = 100  # times as long as wide, where the middle square is wanted
LARGE = 2**24  # pixels of a picture of which one is decoded at a time
LONGEST = 2**26  # pixels that a resized picture may have before its middle is cut out
_one_large_picture = Lock()
# Pillow refuses pictures of more than 179 million pixels, and warns of half as many.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Decoder:
    """How files become pixels: to `channels` (1, 3 or 4), cut to `box`, then to `size`.

    `box` is (left, top, right, bottom). With `size` the shorter side is resized to it, bilinear
    and antialiased as by torchvision, and the middle square is kept, as the papers do. `window`
    holds the values that become black and white.
    """

    channels: int
    size: int | None = None
    box: tuple[int, int, int, int] | None = None
    window: Window | None = field(default=None, repr=False)

    def __call__(self, store: Store, name: str) -> np.ndarray:
        """The pixels of one file, uint8 (C, H, W); UsageError where it cannot be read."""
        with opened(store, name) as image:
            large = image.width * image.height > LARGE
            with _one_large_picture if large else nullcontext():
                return self.pixels(image)

    def pixels(self, image: Picture) -> np.ndarray:
        """The pixels of a picture, uint8 (C, H, W)."""
        if self.window is not None:
            image = windowed(image, self.window)
        upright = ImageOps.exif_transpose(image) if "exif" in image.info else image
        fitted = np.array(self._fit(convert(upright, self.channels)))
        return fitted[None] if fitted.ndim == 2 else fitted.transpose(2, 0, 1)

    def _fit(self, image: Picture) -> Picture:
        if self.box is not None:
            image = image.crop(self.box)
        if self.size is None or image.size == (self.size, self.size):
            return image
        short, long = sorted(image.size)
        if long > THINNEST * short:
            size = f"{image.width}x{image.height}"
            raise ValueError(f"it is {size}, of which the middle square is next to nothing")
        if self.size**2 * long / short > LONGEST:
            image = functional.center_crop(image, [short])  # type: ignore[assignment, arg-type]
        shorter = functional.resize(image, [self.size])  # type: ignore[arg-type]
        return functional.center_crop(shorter, [self.size])  # type: ignore[return-value]


def header(store: Store, name: str) -> tuple[int, int, bool]:
    """(height, width, whether in colour) of one file, from its first bytes."""
    with opened(store, name) as image:
        transposed = "exif" in image.info and image.getexif().get(ORIENTATION) in TRANSPOSED
        width, height = reversed(image.size) if transposed else image.size
        return height, width, image.mode not in GREY and not deep(image)


def largest_value(store: Store, name: str) -> int:
    """The largest value in a file, rounded up."""
    with opened(store, name) as image:
        values = values_of(image)
        clear = values.ndim == 3 and values.shape[2] in (2, 4)
        return math.ceil((values[..., :-1] if clear else values).max())


def convert(image: Picture, channels: int) -> Picture:
    """The image with 8 bits in each of 1, 3 or 4 channels, by the rules above."""
    if deep(image):
        image = Image.fromarray(scaled(np.asarray(image), None))
    if image.has_transparency_data and channels != 4:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(MODES[channels])


@contextmanager
def opened(store: Store, name: str) -> Iterator[Picture]:
    """An image file, its header read; UsageError in one line for whatever goes wrong within."""
    try:
        with store.open(name) as file, Image.open(file, formats=FORMATS) as image:
            yield image
    except Exception as error:  # Pillow and zlib raise a dozen kinds on damaged files
        what, remedy = error.args if isinstance(error, UsageError) else (_reason(error), "")
        raise UsageError(f"cannot read image {name} in {store.path}: {what}", remedy) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is none of {', '.join(FORMATS)}"
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__
