"""metrics.csv: figures by step, each step once and no row in part."""

import contextlib
import csv
import errno
import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from diffgen.files import WriteError, write_text

log = logging.getLogger(__name__)

Row = Mapping[str, Any]


class MetricsCsv(Logger):
    """Writes a row at once, whatever kills the process, in one write at the end of the file.

    Where a row brings a new column, and where a run goes on, the file is written anew beside
    itself and renamed, so that there is always one. A row that a full disk refuses stays in
    `unwritten` and goes into the next write.
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
        self.unwritten: dict[int, Row] = {}

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Nothing: the checkpoint and .hydra/config.yaml hold the configuration."""

    @rank_zero_only
    def go_on(self, step: int, unwritten: Mapping[int, Row]) -> None:
        """Keep the rows up to a step, which a run goes on from; those behind it come again.

        `unwritten` are rows up to it that its checkpoint holds, since the file did not.
        """
        if unwritten or self.path.is_file():
            self._write_anew({k: row for k, row in self._rows(unwritten).items() if k <= step})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        waited = bool(self.unwritten)
        self.unwritten[step] = {**self.unwritten.get(step, {}), **metrics, "step": step}
        try:
            self._write()
        except WriteError as error:
            if not waited:
                log.warning("%s; its rows are kept for the next write", error)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is unwritten; WriteError where that fails and nothing else failed."""
        if self.unwritten:
            with contextlib.suppress(*() if status == "success" else (WriteError,)):
                self._write()

    def _write(self) -> None:
        rows = self.unwritten
        columns = {key for row in rows.values() for key in row}
        if self.last in rows or not columns <= set(self.columns):
            self._write_anew(self._rows(rows))
        else:
            self._append("".join(map(self._line, rows.values())).encode())
        self.last, self.unwritten = max(rows), {}

    def _rows(self, more: Mapping[int, Row]) -> dict[int, Row]:
        """The rows of the file and `more` of them, by step."""
        rows: dict[int, Row] = {}
        if self.path.is_file():
            rows |= whole_rows(self.path.read_text())
        return rows | {step: {**rows.get(step, {}), **row} for step, row in more.items()}

    def _write_anew(self, rows: Mapping[int, Row]) -> None:
        before, self.columns = self.columns, sorted({key for row in rows.values() for key in row})
        text = ",".join(self.columns) + "\n"
        text += "".join(self._line(row) for _, row in sorted(rows.items()))
        try:
            write_text(self.path, text)
        except WriteError:
            self.columns = before  # of the file that is there
            raise

    def _append(self, lines: bytes) -> None:
        try:
            with self.path.open("ab", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if file.write(lines) != len(lines):  # the disk is full
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
