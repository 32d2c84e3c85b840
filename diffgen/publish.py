"""What a finished run or sweep shows: its table, printed and written, and where the pictures are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffgen.evaluation import table
from diffgen.evaluation.collect import collect
from diffgen.training.logger import logger_of


def publish(folder: Path, jobs: Sequence[Path]) -> None:
    """Write the table of the jobs' cells into `folder` and print it, the folder's path last."""
    told = [json.loads((job / "cells.json").read_text()) for job in jobs]
    cells = dict.fromkeys(cell for job in told for cell in job["cells"])
    rows = [row for row in collect(cells) if row.get("metrics") or row["sampler"].startswith("real")]
    if rows:
        table.write(folder, rows)
        table.show(rows)
    for job in jobs:
        print(job / "samples.png")
    if told:
        _log(told[0]["logger"], folder, rows, jobs)
    print(folder)


def _log(
    settings: dict[str, Any], folder: Path, rows: list[dict[str, Any]], jobs: Sequence[Path]
) -> None:
    """Show table and sample sheets in a logger that takes them (wandb)."""
    logger: Any = logger_of(settings, folder, {})
    if hasattr(logger, "log_image"):
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            data = [[str(row.get(column, "")) for column in columns] for row in rows]
            logger.log_table("table", columns, data)
            logger.log_image("figure", [str(folder / "table.png")])
        logger.log_image("samples", [str(job / "samples.png") for job in jobs])
        logger.experiment.finish()
