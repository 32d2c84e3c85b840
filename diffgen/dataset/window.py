"""Values of pictures that do not fill 8 bits, and the window that becomes 0 to 255."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as Picture
from torchvision.io import ImageReadMode, decode_png

from diffgen.errors import UsageError

BLOCK = 2**20  # values scaled at a time

Window = tuple[float, float]  # the values that become black and white


def deep(image: Picture) -> bool:
    """Whether a picture is grey of more than 8 bits."""
    return image.mode.startswith(("I", "F"))


def windowed(image: Picture, window: Window) -> Picture:
    """The picture in 8 bits, a window's values black and white; how opaque it is stays.

    It must be as its file was opened: colours of 16 bits are then read whole. A picture of 1 bit
    is black and white already.
    """
    if image.mode == "1":
        return image
    values = values_of(image)
    alpha = 1 if values.ndim == 3 and values.shape[2] in (2, 4) else 0
    found = scaled(values, window)
    if alpha:
        found[..., -1] = values[..., -1] // (257 if values.dtype == np.uint16 else 1)
    made = Image.fromarray(found)
    made.info = {key: image.info[key] for key in ("exif",) if key in image.info}
    return made


def values_of(image: Picture) -> np.ndarray:
    """The values of a picture as its file has them, (H, W) or (H, W, C), no palette."""
    file: Any = image  # which has what pictures of no file have not
    if image.format == "PNG" and image.mode in ("RGB", "RGBA") and "16" in str(file.tile):
        file.fp.seek(0)
        data = torch.frombuffer(bytearray(file.fp.read()), dtype=torch.uint8)
        return decode_png(data, ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
    plain = image.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in image.info
    if plain or deep(image):
        return np.asarray(image)
    grey = image.mode in ("L", "La")
    clear = image.has_transparency_data
    return np.asarray(image.convert(("L" if grey else "RGB") + ("A" if clear else "")))


def scaled(values: np.ndarray, window: Window | None) -> np.ndarray:
    """Values as bytes, of the same shape; those of 16 bits where no window is."""
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all():
        raise ValueError("it holds values that are not finite")
    if window is None and (values.dtype.kind == "f" or low < 0 or high > 65535):
        raise UsageError(
            f"its values reach from {low:g} to {high:g}, and are not of 8 or 16 bits",
            "dataset.window=[BLACK,WHITE] says which become black and white",
        )
    found = np.empty(values.shape, np.uint8)
    for rows in np.array_split(np.arange(len(values)), 1 + values.size // BLOCK):
        found[rows] = _bytes(values[rows], window)
    return found


def _bytes(values: np.ndarray, window: Window | None) -> np.ndarray:
    if window is None:
        return np.rint(values / 257)
    black, white = window
    return np.rint(((values.astype(np.float64) - black) / (white - black)).clip(0, 1) * 255)
