"""diffgen: generative models by noising and denoising, trained, sampled and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from diffgen.dataset.pixels import Range
    from diffgen.denoiser.base import Preconditioned
    from diffgen.schedule.base import Schedule

__version__ = "0.2.0"


def load(
    path: str | Path, ema: str | float | None = None, trust: Collection[str] = ()
) -> tuple[Preconditioned, Schedule, Range]:
    """Denoiser, schedule and pixel range of a checkpoint: a file, a run's folder, or `latest`.

    `ema` names the weights: an average, `raw`, the relative width of one that is made of those
    that the run kept, or None for the first average. The denoiser takes x_t (B, C, H, W), t and
    labels, and gives x0; the range turns x0 into bytes by `to_uint8`. `trust` names packages
    outside diffgen whose classes the checkpoint may be made of.
    """
    from pathlib import Path

    from diffgen.runs import checkpoint
    from diffgen.runs.locate import locate

    found = checkpoint.load(locate(str(path), Path("runs")), trust)
    denoiser = found.denoiser(ema)
    return denoiser, denoiser.schedule, found.range
