"""Averages of any relative width after the training (Karras et al. 2024, EDM2, section 3.2).

A power-function average at step n weighs the weights of step t by
p(t) = (gamma + 1) t^gamma / n^(gamma + 1), 0 <= t <= n, and gamma follows from the width. Averages
of a few widths, kept at some steps, give one of another width: the sum of c_i theta_i whose
profile is nearest to the wanted one, min_c || sum_i c_i p_i - p ||^2 (algorithm 3).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.training.ema import exponent

WIDEST = 0.28  # relative width above which no power function has it
LARGEST_MISS = 0.1  # of the wanted profile's norm; the field's two widths and 16 steps: below 0.03

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, order=True)
class Profile:
    """How an average of this relative width weighs the weights of the steps up to `step`."""

    step: int
    width: float

    def overlap(self, other: "Profile") -> float:
        """The integral over t of both profiles' product, in closed form."""
        a, b = (exponent(profile.width) + 1 for profile in (self, other))
        (n, m), first = (self.step, other.step), min(self.step, other.step)
        return a * b / (a + b - 1) * (first / n) ** a * (first / m) ** b / first


def width_of(ema: str | float | None) -> float | None:
    """The relative width that `ema=` asks for, None for a name; UsageError outside (0, 0.28)."""
    try:
        width = float(ema or "")
    except ValueError:
        return None
    if not 0 < width < WIDEST:
        raise UsageError(f"ema={ema}: a relative width lies between 0 and {WIDEST}")
    return width


def coefficients(kept: Sequence[Profile], wanted: Profile) -> NDArray[np.float64]:
    """The c_i of the kept averages; UsageError where their sum misses the wanted profile.

    They add up to 1, which algorithm 3 does not ask for: what all averages share stays whole.
    """
    gram = np.array([[one.overlap(other) for other in kept] for one in kept])
    towards = np.array([one.overlap(wanted) for one in kept])
    norm, ones = wanted.overlap(wanted), np.ones((len(kept), 1)) * gram.mean()
    system = np.block([[gram, ones], [ones.T, np.zeros((1, 1))]])  # with a Lagrange multiplier
    found = np.linalg.lstsq(system, np.append(towards, gram.mean()), rcond=1e-14)[0][:-1]
    miss = max(0.0, (found @ gram @ found - 2 * found @ towards + norm) / norm) ** 0.5
    if miss > LARGEST_MISS:
        widths = " and ".join(f"{width:g}" for width in sorted({one.width for one in kept}))
        raise UsageError(
            f"ema={wanted.width:g} cannot be made of what this run kept ({len(kept)} averages of "
            f"width {widths}): the nearest sum misses its profile by {miss:.0%}; take a "
            "wider one, or train with more trainer.ema_snapshots"
        )
    return found


def plan(
    checkpoint: Path, step: int, ema: Mapping[str, Mapping[str, Any]], width: float
) -> dict[Path, dict[str, float]]:
    """{file: {name of an average: its c_i}} for the average of this width at a checkpoint's step.

    `ema` is the recipe's. The files are the checkpoint and, beside it, what CheckpointSaver and
    EmaSnapshots wrote before its step. UsageError where the run keeps no average by width.
    """
    widths = {name: kept["width"] for name, kept in ema.items() if kept.get("width")}
    if not widths:
        raise UsageError(
            f"ema={width:g}: {checkpoint} keeps no averages of relative widths; train with "
            "ema=ddpm_posthoc or ema=edm_posthoc, or take a name"
        )
    files = {
        int(found[1]): path
        for path in sorted(checkpoint.parent.glob("*.ckpt"), reverse=True)
        if (found := re.fullmatch(r"(?:ema|step)_(\d+)\.ckpt", path.name))
    }
    files = {at: path for at, path in files.items() if at < step} | {step: checkpoint}
    sources = {Profile(at, w): (path, k) for at, path in files.items() for k, w in widths.items()}
    kept, planned = sorted(sources), dict[Path, dict[str, float]]()
    found = coefficients(kept, Profile(step, width))
    for profile, factor in zip(kept, found.tolist(), strict=True):
        path, name = sources[profile]
        planned.setdefault(path, {})[name] = factor
    return planned


def combined(kept: Iterable[tuple[float, Weights]]) -> dict[str, Tensor]:
    """The sum of c_i theta_i by name, summed in float64; the averages are read one by one."""
    total: dict[str, Tensor] = {}
    types: dict[str, torch.dtype] = {}
    for factor, weights in kept:
        for key, value in weights.items():
            types.setdefault(key, value.dtype)
            so_far = total.setdefault(key, torch.zeros(value.shape, dtype=torch.float64))
            so_far.add_(value.double(), alpha=factor)
    return {key: value.to(types[key]) for key, value in total.items()}
