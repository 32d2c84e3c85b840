"""result.json, the row of a cell as it lies on the disk: read, sealed and gathered."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffgen.errors import UsageError
from diffgen.evaluation.rows import ESSENTIAL, NUMBERS, Row
from diffgen.files import sha256_of_json

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
    rows = [_finished(path) for path in sorted(files)]
    return [row for row in rows if row is not None]


def seal_of(cell: str, row: Row) -> str:
    """What tells that a row, plain data, is as it was written in the folder of this name."""
    return sha256_of_json([cell, {key: value for key, value in row.items() if key != "seal"}])


def read_row(path: Path, sealed: bool = False) -> Row:
    """The row in a result.json; ValueError where it is damaged or was changed.

    Rows of 0.1.0 have no seal; any other is none where it has to be `sealed`.
    """
    try:
        row: Any = json.loads(path.read_text())
    except RecursionError:
        raise ValueError("it is nested") from None
    if not isinstance(row, dict):
        raise ValueError("it is no row")
    seal = row.pop("seal", None)
    wanted = seal_of(path.parent.name, row)
    earlier = dict(row.get("versions") or {}).get("diffgen") == "0.1.0"
    if seal != wanted and (seal is not None or (sealed and not earlier)):
        raise ValueError("it was changed after it was written")
    return row


def _finished(path: Path) -> Row | None:
    try:
        row = read_row(path)
    except (OSError, ValueError, TypeError) as error:
        log.warning("left out %s, which is damaged (%s)", path, error)
        return None
    if row.get("metrics") == []:  # images alone, as they were asked for
        return None
    if any(row.get(key) is None for key in ESSENTIAL):
        log.warning("left out %s, which is no finished row of a table", path)
        return None
    for key in NUMBERS:
        if not isinstance(row.get(key), int | float | None):
            log.warning("left out %s, whose %s is no number: %r", path, key, row[key])
            return None
    if row.get("checkpoint") and path.parent.parent.name == "cells":
        row.setdefault("run", path.parents[2].as_posix())
    return row
