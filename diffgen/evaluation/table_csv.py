"""table.csv: every row in full precision, for programs."""

import shlex
from collections.abc import Mapping, Sequence

from diffgen.evaluation.rows import COLUMNS, Block, Row, text
from diffgen.evaluation.table_formats import comma_separated

# Of a row, in no file for other programs.
UNLISTED = ("identity", "recipe", "folder", "fid_influence")
KEYS = {"guidance.weight": "weight", "precision": "numeric_precision"}  # typed, in a table


def as_csv(
    found: Sequence[Block], failed: Sequence[Mapping[str, str]] = (), trained: Sequence[Row] = ()
) -> str:
    """Every row in full precision; of a job that failed its settings and its `reason`."""
    measured = (row for block in found for row in block.all)
    rows = [*trained, *measured, *map(failed_row, failed)]
    others = {key for row in rows for key in row} - {*COLUMNS, *UNLISTED}
    columns = [*COLUMNS, *sorted(others)]
    return comma_separated(
        columns, [[text(row.get(column)) for column in columns] for row in rows]
    )


def failed_row(job: Mapping[str, str]) -> Row:
    """A job that failed as a row: the columns that its words name, and why it failed."""
    words = (word.partition("=") for word in shlex.split(job["settings"]))
    named = {KEYS.get(key, key): value for key, _, value in words}
    known = {key: value for key, value in named.items() if key in COLUMNS}
    return {**known, "words": job["settings"], "reason": job["reason"]}
