"""Trainings as rows: what a checkpoint is, and what its run's log says up to its step."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffgen.errors import UsageError
from diffgen.runs.checkpoint import stored
from diffgen.runs.locate import locate
from diffgen.runtime.metrics_csv import whole_rows

log = logging.getLogger(__name__)

LAST = "checkpoints/last.ckpt"
MEASURED = ("fd", "held_out_loss")  # the first of them that a log has chooses the best step


def training_rows(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """A row for each run below the folders, and for each checkpoint among the paths.

    A run's row is that of its last.ckpt. Files that are no checkpoints are left out with a notice
    below a folder, and a UsageError where they were named.
    """
    found: dict[Path, dict[str, Any] | None] = {}
    for path in paths:
        if path.is_dir():
            for last in sorted(path.rglob(LAST)):
                found.setdefault(last.resolve(), _row_below(last))
        else:
            file = locate(str(path), Path())
            found.setdefault(file.resolve(), _row(file))
    return [row for row in found.values() if row]


def _row_below(path: Path) -> dict[str, Any] | None:
    try:
        return _row(path)
    except UsageError as error:
        log.warning("left out %s", error)
        return None


def _row(path: Path) -> dict[str, Any]:
    """The columns of a checkpoint: where it is, its recipe, and the figures of its step."""
    if not path.is_file():
        raise UsageError(f"no folder and no checkpoint at {path}")
    kept = stored(path)
    run = path.resolve().parent
    run = run.parent if run.name == "checkpoints" else run
    logged = run / "metrics.csv"
    rows = whole_rows(logged.read_text()) if logged.is_file() else {}
    figures: dict[str, float] = {}
    for step, row in sorted(rows.items()):
        if step <= kept.step:
            figures |= {key: float(value) for key, value in row.items() if _is_shown(key, value)}
    return {
        "checkpoint": path.name,
        "checkpoint_hash": kept.hash[:12],
        "run": run.as_posix(),
        "step": kept.step,
        "recipe": kept.recipe,
        **figures,
        **_best(rows),
    }


def _best(rows: dict[int, dict[str, str]]) -> dict[str, Any]:
    """Of all steps the least distance, or held-out loss, and its step."""
    for name in MEASURED:
        shown = {step: row[name] for step, row in rows.items() if _is_shown(name, row.get(name))}
        known = {step: float(value) for step, value in shown.items()}
        known = {step: value for step, value in known.items() if math.isfinite(value)}
        if known:
            step = min(known, key=lambda step: known[step])
            return {"best": known[step], "best_step": step, "best_of": name}
    return {}


def _is_shown(column: str, value: str | None) -> bool:
    """Whether a value is a number that a table shows: no step or rate, no loss at some levels."""
    if not value or "/" in column or column in ("step", "epoch", "lr"):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True
