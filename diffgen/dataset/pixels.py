"""The only change of range: 8-bit pixels <-> the numbers a model sees; and image grids."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.files import write_atomically


@dataclass(frozen=True)
class Range:
    """x = (u / 255 - shift) / scale for a byte u: [-1, 1] by (0.5, 0.5), [0, 1] by (0, 1)."""

    shift: float = 0.5
    scale: float = 0.5

    @property
    def low(self) -> float:
        """What a black pixel becomes."""
        return (0 - self.shift) / self.scale

    @property
    def high(self) -> float:
        """What a white pixel becomes."""
        return (1 - self.shift) / self.scale

    def to_model(self, pixels: Tensor) -> Tensor:
        """uint8 (...) -> float32 (...)."""
        return (pixels.float() / 255 - self.shift) / self.scale

    def to_uint8(self, x: Tensor) -> Tensor:
        """float (...) -> uint8 (...) by clipping and rounding; nothing else does that."""
        return ((x * self.scale + self.shift) * 255).round().clamp(0, 255).to(torch.uint8)


RANGES = {"symmetric": Range(0.5, 0.5), "unit": Range(0.0, 1.0)}


def standardised(pixels: Tensor) -> Range:
    """The range in which these uint8 images (N, C, H, W) have mean 0 and deviation 1."""
    counts = torch.bincount(pixels.flatten(), minlength=256).double() / pixels.numel()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum()
    deviation = (counts * (values - mean).square()).sum().sqrt()
    if deviation == 0:
        raise UsageError(
            "the images are all of one grey, which has no deviation to measure",
            "set model.range=symmetric, and prediction.sigma_data=0.5 for model=edm",
        )
    return Range(float(mean), float(deviation))


def grid(images: Tensor, columns: int | None = None, gap: int = 1) -> Tensor:
    """uint8 (N, C, H, W) -> one picture (C, H', W'), row by row, white between."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    _, channels, height, width = images.shape
    sheet = images.new_full(
        (channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255
    )
    for k, image in enumerate(images):
        top = gap + k // columns * (height + gap)
        left = gap + k % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def enlarge(picture: Tensor, width: int = 512) -> Tensor:
    """A picture (C, H, W) repeated pixel by pixel until it is about `width` wide."""
    factor = max(1, round(width / picture.shape[-1]))
    return picture.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def save_png(picture: Tensor, path: Path) -> None:
    """Write a picture uint8 (1 or 3, H, W) as a PNG."""
    image = Image.fromarray(picture.cpu().permute(1, 2, 0).squeeze(-1).numpy())
    write_atomically(path, lambda file: image.save(file, "png"))


def save_sheet(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Write images uint8 (N, C, H, W) as one enlarged grid."""
    save_png(enlarge(grid(images, columns)), path)


def by_class(images: Tensor, labels: Tensor | None, classes: int, rows: int) -> Sequence[int]:
    """Indices of up to `rows` images of each class there is, for a grid with a column for each."""
    if labels is None or classes == 0:
        return range(min(len(images), rows * rows))
    found = [(labels == k).nonzero().flatten()[:rows].tolist() for k in range(classes)]
    columns = [column for column in found if column]
    depth = min(map(len, columns))
    return [column[r] for r in range(depth) for column in columns]


PACE = 120  # milliseconds a frame


def save_pictures(files: Mapping[str, Tensor], folder: Path) -> None:
    """Write uint8 pictures (C, H, W) as PNGs and animations (F, C, H, W) as GIFs, by name."""
    for name, shown in files.items():
        (save_png if shown.ndim == 3 else save_gif)(shown, folder / name)


def save_gif(frames: Tensor, path: Path) -> None:
    """Write frames uint8 (F, 1 or 3, H, W) as a GIF that runs to the last one and back."""
    there = [Image.fromarray(f.permute(1, 2, 0).squeeze(-1).cpu().numpy()) for f in frames]
    first, *rest = [*there, *there[-2:0:-1]]
    options = {"save_all": True, "append_images": rest, "duration": PACE, "loop": 0}
    write_atomically(path, lambda file: first.save(file, "gif", **options))
