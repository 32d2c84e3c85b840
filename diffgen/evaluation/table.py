"""Tables of scores: table.csv for programs, table.md for readers, table.png for a glance."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from diffgen.evaluation.plot import draw
from diffgen.evaluation.rows import COLUMNS, Block, blocks, text
from diffgen.evaluation.table_text import Grid, header, main_cells, over_seeds, per_class
from diffgen.files import write_atomically

OVER_SEEDS = "The same over seeds:"


def write(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write table.csv, table.md and, where there are distances, table.png into the folder.

    Rows are put in order; UsageError for rows that do not compare (see `rows.blocks`).
    """
    found = blocks(rows)
    write_atomically(folder / "table.csv", lambda file: file.write(_csv(found).encode()))
    write_atomically(folder / "table.md", lambda file: file.write(_markdown(found).encode()))
    draw(folder / "table.png", found)


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table, a block for each n; wider than the terminal rather than cut."""
    for block in blocks(rows):
        print(header(block))
        _show(main_cells(block))
        seeds = over_seeds(block)
        if seeds:
            print(OVER_SEEDS)
            _show(seeds)


def _show(grid: Grid) -> None:
    headers, body = grid
    table = Table(*headers, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.justify = "left" if column.header == "sampler" else "right"
    for row in body:
        table.add_row(*map(escape, row))
    wanted = Measurement.get(Console(width=1000), Console(width=1000).options, table).maximum
    Console(width=max(wanted, Console().width)).print(table)


def _csv(found: Sequence[Block]) -> str:
    rows = [row for block in found for row in block.all]
    others = {key for row in rows for key in row} - {*COLUMNS, "identity"}
    columns = [*COLUMNS, *sorted(others)]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[text(row.get(column)) for column in columns] for row in rows])
    return file.getvalue()


def _markdown(found: Sequence[Block]) -> str:
    parts = []
    for block in found:
        parts += [header(block), _pipes(main_cells(block))]
        seeds, classes = over_seeds(block), per_class(block)
        if seeds:
            parts += [OVER_SEEDS, _pipes(seeds)]
        if classes:
            parts += ["The same distance for each class alone:", _pipes(classes)]
    return "\n\n".join(parts) + "\n"


def _pipes(grid: Grid) -> str:
    headers, body = grid
    rule = [":---", *["---:"] * (len(headers) - 1)]
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (headers, rule, *body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
