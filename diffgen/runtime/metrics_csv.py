"""metrics.csv: figures by step, each step once and no row in part."""

import csv
import errno
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from diffgen.files import WriteError, write_atomically

Row = Mapping[str, Any]


class MetricsCsv(Logger):
    """Writes a row at once, whatever kills the process, in one write at the end of the file.

    Where a row brings a new column, and where a run goes on, the file is written anew beside
    itself and renamed, so that there is always one.
    """

    @property
    def name(self) -> None:
        """It writes into one folder, without names below it."""

    @property
    def version(self) -> None:
        """See `name`."""

    @property
    def experiment(self) -> None:
        """No pictures are logged here."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.columns = path, list[str]()
        self.last: int | None = None  # the step of the last row, to which more figures may come

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Nothing: the checkpoint and .hydra/config.yaml hold the configuration."""

    @rank_zero_only
    def drop_after(self, step: int) -> None:
        """Keep the rows up to a step, which a run goes on from; those behind it come again."""
        if not self.path.is_file():
            return
        kept = {k: row for k, row in whole_rows(self.path.read_text()).items() if k <= step}
        self.columns = sorted({column for row in kept.values() for column in row})
        self._write_anew(kept.values())

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {**metrics, "step": step}
        new, again = row.keys() - self.columns, step == self.last
        self.last = step
        if not new and not again:
            self._append(row)
            return
        rows: dict[int | None, Row] = {}
        if self.path.is_file():
            rows |= whole_rows(self.path.read_text())
        rows[step] = {**rows.pop(step, {}), **row}
        self.columns = sorted({*self.columns, *new})
        self._write_anew(rows.values())

    def _write_anew(self, rows: Iterable[Row]) -> None:
        text = ",".join(self.columns) + "\n" + "".join(map(self._line, rows))
        write_atomically(self.path, lambda file: file.write(text.encode()))

    def _append(self, row: Row) -> None:
        line = self._line(row).encode()
        try:
            with self.path.open("ab", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if file.write(line) != len(line):  # the disk is full
                    file.truncate(end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise WriteError(self.path, error) from error

    def _line(self, row: Row) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, lineterminator="\n").writerow(row)
        return text.getvalue()


def whole_rows(text: str) -> dict[int, dict[str, str]]:
    """The rows of a metrics.csv by step; of a step that comes twice the last one.

    A last line without its end, and lines with more or fewer fields than the header, are left out.
    """
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    rows = csv.DictReader(lines, restval=None)
    return {
        int(row["step"]): {key: value for key, value in row.items() if value}
        for row in rows
        if None not in row and None not in row.values() and row.get("step", "").isdigit()
    }
