"""What a finished run or sweep shows: its table, and where the pictures are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffgen.config.schema import Named
from diffgen.evaluation import table
from diffgen.evaluation.collect import collect
from diffgen.evaluation.rows import blocks
from diffgen.runs.cell import Cell
from diffgen.runtime.logger import finish, logger_of
from diffgen.sampling.guidance_sheet import guidance_sheets

NOTE = "cells.json"  # in a job's folder: where its cells stand, and its logger


def publish(folder: Path, jobs: Sequence[Path]) -> None:
    """Write the table of the jobs' cells into `folder` and print it, the folder's path last."""
    cells = list(dict.fromkeys(cell for job in jobs for cell in cells_of(job)))
    rows = {cell: row for cell in cells if (row := Cell(cell).row)}
    scored = collect(cell for cell, row in rows.items() if "n" in row)
    if scored:
        table.write(folder, scored)
        table.show(scored)
        scored = [row for block in blocks(scored) for row in block.all]
    pictures = [*(job / "samples.png" for job in jobs), *guidance_sheets(folder, rows)]
    for path in pictures:
        print(path)
    print(folder, flush=True)
    if jobs:
        logger = json.loads((jobs[0] / NOTE).read_text())["logger"]
        _log(Named.of(logger), folder, scored, pictures)


def cells_of(folder: Path) -> list[Path]:
    """The folders of the cells that a job, a sweep or a run names or holds."""
    notes = sorted(folder.rglob(NOTE), key=lambda path: (len(str(path)), str(path)))
    named = [Path(cell) for note in notes for cell in json.loads(note.read_text())["cells"]]
    return named or sorted(path.parent for path in folder.rglob("result.json"))


def _log(
    settings: Named, folder: Path, rows: list[dict[str, Any]], pictures: Sequence[Path]
) -> None:
    """Show table and sample sheets in a logger that takes them (wandb)."""
    logger: Any = logger_of(settings, folder, {})
    if not hasattr(logger, "log_image"):
        return
    try:
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            data = [[str(row.get(column, "")) for column in columns] for row in rows]
            logger.log_table("table", columns, data)
        if (folder / "table.png").is_file():  # there are no distances without it
            logger.log_image("figure", [str(folder / "table.png")])
        logger.log_image("samples", [str(path) for path in pictures])
    finally:
        finish([logger])
