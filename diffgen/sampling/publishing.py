"""What a finished run or sweep shows: its table, and where the pictures are."""

import json
import logging
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from diffgen.config.parts import Named
from diffgen.dataset.pixels import save_sheet
from diffgen.errors import FAILURE_FILE, UsageError
from diffgen.evaluation import table
from diffgen.evaluation.rows import blocks, caption, identity_of, setting, text, varying
from diffgen.evaluation.table_csv import failed_row
from diffgen.evaluation.table_formats import print_parts
from diffgen.runs.cell import Cell
from diffgen.runs.result_file import collect
from diffgen.sampling.log_tables import log_results

log = logging.getLogger(__name__)

NOTE = "cells.json"  # in a job's folder: where its cells stand, and its logger


def publish(folder: Path, jobs: Sequence[Path]) -> None:
    """Write the table of the jobs' cells into `folder` and print it, the folder's path last."""
    cells = list(dict.fromkeys(cell for job in jobs for cell in cells_of(job)))
    rows = {cell: row for cell in cells if (row := Cell(cell).row)}
    scored = collect(cell for cell, row in rows.items() if "n" in row)
    failed = failures(folder)
    if scored or failed:
        found = blocks(scored) if scored else []
        table.write(folder, found, failed)
        print_parts(table.parts(found, failed, classes=False))
    pictures = [*(job / "samples.png" for job in jobs), *guidance_sheets(folder, rows)]
    for path in pictures:
        print(path)
    print(folder, flush=True)
    if jobs:
        notes = [json.loads((job / NOTE).read_text()) for job in jobs]
        drawn = [Cell(job / note["cells"][0]).row for job, note in zip(jobs, notes, strict=True)]
        captions = {
            job / "samples.png": caption(row or {}) for job, row in zip(jobs, drawn, strict=True)
        }
        shown = {path: captions.get(path, path.stem) for path in pictures}
        configs = [note.get("config") or {} for note in notes]
        log_results(
            Named.of(notes[0]["logger"]),
            folder,
            configs,
            [*scored, *map(failed_row, failed)],
            shown,
        )


def failures(sweep: Path) -> list[dict[str, Any]]:
    """The jobs of a sweep that failed, {"job", "settings", "reason"}, in their order."""
    notes = sorted(sweep.rglob(FAILURE_FILE), key=lambda path: (len(str(path)), str(path)))
    return [
        {"job": str(note.parent.relative_to(sweep)), **json.loads(note.read_text())}
        for note in notes
    ]


def cells_of(folder: Path, beside: Sequence[Path] = ()) -> list[Path]:
    """The folders of the cells that a job, a sweep or a run names or holds, each once.

    `beside`: folders where the cells of a run that was moved alone may stand.
    """
    notes = sorted(folder.rglob(NOTE), key=lambda path: (len(str(path)), str(path)))
    named = [cell for note in notes for cell in _named_in(note, folder, beside)]
    held = sorted(path.parent.resolve() for path in folder.rglob("result.json"))
    return list(dict.fromkeys([*named, *held]))


def cells_in(folders: Sequence[Path]) -> list[Path]:
    """Those of several folders, each once; UsageError for a folder that is not there."""
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"no folder {folder} to take a table's rows from")
    return list(dict.fromkeys(cell for folder in folders for cell in cells_of(folder, folders)))


def named_from(job: Path, cell: Cell) -> str:
    """A cell as the note of a job names it, so that the folder of all runs may be moved."""
    return os.path.relpath(cell.folder.resolve(), job.resolve())


def _named_in(note: Path, folder: Path, beside: Sequence[Path]) -> list[Path]:
    """The cells that a note in `folder` names; those not there are left out, with a notice."""
    try:
        names = [str(name) for name in json.loads(note.read_text())["cells"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("left out the cells of %s, which is damaged (%s)", note, error)
        return []
    found = {name: _moved(note.resolve(), name, beside) for name in names}
    missing = [name for name, cell in found.items() if cell is None]
    if missing:
        log.warning(
            "left out %d cells of %s, which are not there, as %s; if their run was moved, name "
            "its new folder, too: diffgen table %s RUN",
            *(len(missing), note.parent, missing[0], shlex.quote(str(folder))),
        )
    return [cell for cell in found.values() if cell]


def _moved(note: Path, name: str, beside: Sequence[Path]) -> Path | None:
    """Where a cell stands, also after its run or the folder of all runs was moved, or None."""
    cell = Path(os.path.normpath(note.parent / name))
    # as sweeps/TIME/N/cells/KEY, DATASET_MODEL/TIME/cells/KEY or cells/KEY under that folder
    tails = [Path(*cell.parts[-length:]) for length in (5, 4, 2)]
    places = [cell, *(parent / tail for tail in tails for parent in (*note.parents, *beside))]
    return next((place for place in places if place.is_dir()), None)


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
