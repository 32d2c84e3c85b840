"""LoadedImages and animations on the disk."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from torch import Tensor

from diffgen.dataset.pixels import save_png
from diffgen.files import write_atomically

PACE = 120  # milliseconds a frame


def keep(files: Mapping[str, Tensor], folder: Path) -> None:
    """Write uint8 pictures (C, H, W) as PNGs and animations (F, C, H, W) as GIFs, by name."""
    for name, shown in files.items():
        (save_png if shown.ndim == 3 else save_gif)(shown, folder / name)


def save_gif(frames: Tensor, path: Path) -> None:
    """Write frames uint8 (F, 1 or 3, H, W) as a GIF that runs to the last one and back."""
    there = [Image.fromarray(f.permute(1, 2, 0).squeeze(-1).cpu().numpy()) for f in frames]
    first, *rest = [*there, *there[-2:0:-1]]
    options = {"save_all": True, "append_images": rest, "duration": PACE, "loop": 0}
    write_atomically(path, lambda file: first.save(file, "gif", **options))
