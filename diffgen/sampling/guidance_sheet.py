"""What guidance did to the same noise: a row for each class, a column for each weight."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from diffgen.dataset.pixels import save_sheet
from diffgen.evaluation.rows import identity_of, setting, text, varying
from diffgen.runs.cell import Cell


def guidance_sheets(folder: Path, rows: Mapping[Path, dict[str, Any]]) -> list[Path]:
    """Write a sheet for each way of sampling that cells (folder: row) tried at several weights.

    The paths written: guidance.png, or guidance_SAMPLER_STEPS.png where there are several, with
    the other settings in which they differ.
    """
    weighted = {path: row for path, row in rows.items() if row.get("weight") is not None}
    identity = [*identity_of(list(weighted.values())), "checkpoint_hash", "seed"]
    same = [column for column in identity if column != "weight"]
    groups: dict[str, list[Path]] = {}
    for path, row in weighted.items():
        groups.setdefault(text([row.get(column) for column in same]), []).append(path)
    several = [paths for paths in groups.values() if len(paths) > 1]
    firsts = [rows[paths[0]] for paths in several]
    differing = [c for c in varying(firsts, same) if c not in ("sampler", "steps")]
    written = []
    for paths, row in zip(several, firsts, strict=True):
        parts = [row["sampler"], row.get("steps"), *(setting(row.get(c)) for c in differing)]
        name = "_".join(["guidance", *(str(part) for part in parts if part not in (None, ""))])
        path = folder / ("guidance.png" if len(several) == 1 else f"{_file_name(name)}.png")
        columns = sorted(paths, key=lambda path: rows[path]["weight"])
        if _write(path, [Cell(column) for column in columns]):
            written.append(path)
    return written


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", text)


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
