"""Rows of tables gathered from the cells of sweeps."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffgen.errors import UsageError
from diffgen.evaluation.rows import ESSENTIAL, Row

log = logging.getLogger(__name__)


def collect(folders: Iterable[Path | str]) -> list[Row]:
    """The rows in every result.json below the folders, each file once, in the order of paths.

    One that is damaged or unfinished is left out, with a notice.
    """
    files: set[Path] = set()
    for folder in map(Path, folders):
        if not folder.exists():
            raise UsageError(f"no folder {folder} to take a table's rows from")
        files |= {path.resolve() for path in folder.rglob("result.json")}
    rows = [_row(path) for path in sorted(files)]
    return [row for row in rows if row is not None]


def _row(path: Path) -> Row | None:
    try:
        row: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        log.warning("left out %s, which is damaged (%s)", path, error)
        return None
    if not isinstance(row, dict) or any(row.get(key) is None for key in ESSENTIAL):
        log.warning("left out %s, which is no finished row of a table", path)
        return None
    return row
