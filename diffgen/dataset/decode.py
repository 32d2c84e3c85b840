"""From one image file to 8-bit pixels of the wanted channels and size.

- Grey of more than 8 bits is scaled: round(value / 257), so that 65535 becomes 255; or, with a
  window, from its two values to 0 and 255. 1 bit becomes 0 or 255.
- A palette is looked up. Colour of 16 bits per channel keeps its high bytes (by Pillow).
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
from diffgen.errors import UsageError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
GREY = {"1", "L", "LA", "La"}
# What a data set may hold: raster formats alone. Pillow also knows EPS, which runs Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "JPEG2000", "BMP", "GIF", "TIFF", "PPM")
ORIENTATION, TRANSPOSED = 0x0112, (5, 6, 7, 8)
THINNEST = 100  # times as long as wide, where the middle square is wanted
LARGE = 2**24  # pixels of a picture of which one is decoded at a time
LONGEST = 2**26  # pixels that a resized picture may have before its middle is cut out
BLOCK = 2**20  # values scaled at a time

Window = tuple[float, float]  # the values that become black and white
_one_large_picture = Lock()
# Pillow refuses pictures of more than 179 million pixels, and warns of half as many.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Decoder:
    """How files become pixels: to `channels` (1, 3 or 4), cut to `box`, then to `size`.

    `box` is (left, top, right, bottom). With `size` the shorter side is resized to it, bilinear
    and antialiased as by torchvision, and the middle square is kept, as the papers do. `window`
    holds the values of grey files that become black and white.
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
        upright = ImageOps.exif_transpose(image) if "exif" in image.info else image
        fitted = np.array(self._fit(convert(upright, self.channels, self.window)))
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
        return height, width, image.mode not in GREY and not _deep(image)


def brightest_grey(store: Store, name: str) -> int | None:
    """The largest value in a grey file, rounded up; None of another file."""
    with opened(store, name) as image:
        grey = _deep(image) or image.mode == "L"
        return math.ceil(np.asarray(image).max()) if grey else None


def convert(image: Picture, channels: int, window: Window | None = None) -> Picture:
    """The image with 8 bits in each of 1, 3 or 4 channels, by the rules above."""
    if _deep(image) or (window and image.mode == "L"):
        image = _scaled(image, window)
    if image.has_transparency_data and channels != 4:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(MODES[channels])


def _deep(image: Picture) -> bool:
    return image.mode.startswith(("I", "F"))


def _scaled(image: Picture, window: Window | None) -> Picture:
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all():
        raise ValueError("it holds values that are not finite")
    if window is None and (image.mode == "F" or low < 0 or high > 65535):
        raise UsageError(
            f"its values reach from {low:g} to {high:g}, and are not of 8 or 16 bits",
            "dataset.window=[BLACK,WHITE] says which become black and white",
        )
    scaled = np.empty(values.shape, np.uint8)
    for rows in np.array_split(np.arange(len(values)), 1 + values.size // BLOCK):
        scaled[rows] = _bytes(values[rows], window)
    return Image.fromarray(scaled)


def _bytes(values: np.ndarray, window: Window | None) -> np.ndarray:
    if window is None:
        return np.rint(values / 257)
    black, white = window
    return np.rint(((values.astype(np.float64) - black) / (white - black)).clip(0, 1) * 255)


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
    told = getattr(error, "strerror", None) or str(error)
    return " ".join(told.split()) or type(error).__name__
