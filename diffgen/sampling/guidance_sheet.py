"""What guidance did to the same noise: a row for each class, a column for each weight."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from diffgen.dataset.pixels import save_sheet
from diffgen.runs.cell import Cell

SAME = ("checkpoint_hash", "ema", "guidance", "sampler", "settings", "steps", "spacing", "seed")


def guidance_sheets(folder: Path, rows: Mapping[Path, dict[str, Any]]) -> list[Path]:
    """Write a sheet for each way of sampling that cells (folder: row) tried at several weights.

    The paths written: guidance.png, or guidance_SAMPLER_STEPS.png where there are several.
    """
    groups: dict[str, list[tuple[float, Cell]]] = {}
    for path, row in rows.items():
        if row.get("weight") is not None:
            key = json.dumps([row.get(name) for name in SAME])
            groups.setdefault(key, []).append((row["weight"], Cell(path)))
    several = {key: cells for key, cells in groups.items() if len(cells) > 1}
    written = []
    for key, cells in several.items():
        _, _, _, sampler, _, steps, *_ = json.loads(key)
        way = sampler if steps is None else f"{sampler}_{steps}"
        name = "guidance" if len(several) == 1 else f"guidance_{way}"
        columns = [cell for _, cell in sorted(cells, key=lambda pair: pair[0])]
        if _write(folder / f"{name}.png", columns):
            written.append(folder / f"{name}.png")
    return written


def _write(path: Path, columns: Sequence[Cell]) -> bool:
    """The first image of each class in each cell; False where there is nothing to compare."""
    found = [images for cell in columns if (images := cell.images())]
    labels = [kept for _, kept in found if kept is not None]
    if len(labels) != len(columns) or any(not torch.equal(kept, labels[0]) for kept in labels):
        return False
    firsts = [int((labels[0] == label).nonzero()[0]) for label in labels[0].unique()]
    sheet = torch.stack([images[first] for first in firsts for images, _ in found])
    save_sheet(sheet, path, columns=len(columns))
    return True
