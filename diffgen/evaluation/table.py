"""Tables of scores: table.csv for programs, table.md for readers, table.png for a glance."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from diffgen.evaluation.plot import draw
from diffgen.evaluation.rows import (
    COLUMNS,
    Block,
    Row,
    best_rows,
    blocks,
    pooled,
    setting,
    text,
    title,
    varying,
)
from diffgen.files import write_atomically

ALWAYS = ("sampler", "settings", "steps", "weight")  # columns of every table
SHARES = (
    *("accuracy", "precision", "recall", "density", "coverage", "authentic", "nearer"),
    "saturation",
)

Grid = tuple[list[str], list[list[str]]]
Column = tuple[str, Callable[[Row], str]]
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


def show_failed(folder: Path, failed: Sequence[Mapping[str, str]]) -> None:
    """Print the jobs of a sweep that failed, and write them to failed.md in its folder."""
    columns = ["job", "settings", "reason"]
    grid = columns, [[row[column] for column in columns] for row in failed]
    print("Jobs that failed:")
    _show(grid)
    write_atomically(folder / "failed.md", lambda file: file.write(f"{_pipes(grid)}\n".encode()))


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


def header(block: Block) -> str:
    """What all rows share, in one or two sentences."""
    row = block.all[0]
    scored = (
        f"{title(row)} of n = {block.n} images a row, features {row['features']} "
        f"[{row['features_hash']}], against {row['reference']} [{row['reference_hash']}]."
    )
    first = block.rows[0] if block.rows else {}
    same = [c for c in _shared(block) if first.get(c) is not None and c not in _differing(block)]
    if not same:
        return scored
    return f"{scored} All samples: {', '.join(f'{c} {first[c]}' for c in same)}."


def main_cells(block: Block) -> Grid:
    """Headers and rows of the block, without columns that are empty or alike in all rows."""
    floor, best = (block.floor or {}).get("fid"), best_rows(block.rows)
    columns: list[Column] = [
        *_methods(block),
        (title(block.all[0]), _with("fid", "fid_error")),
        ("best", lambda row: "*" if row in best else ""),
        ("/ real", lambda row: _ratio(row.get("fid"), floor)),
        (f"{title(block.all[0])} test", _of("fid_test", _number)),
        (f"{title(block.all[0])} infinite", _of("fid_infinity", _number)),
        ("KID", _with("kid", "kid_error")),
        ("MIND", _of("mind", _number)),
        ("IS", _with("is", "is_std")),
        *((name, _of(name, _share)) for name in SHARES),
        ("worst class", _worst),
        ("images/s", _of("images_per_second", _number)),
    ]
    return _grid(columns, block.all)


def over_seeds(block: Block) -> Grid | None:
    """Headers and rows of the settings sampled with several seeds, None without any."""
    rows = [row for row in pooled(block.rows) if row["seeds"] > 1]
    if not rows:
        return None
    floor = (block.floor or {}).get("fid")
    columns: list[Column] = [
        *_methods(replace(block, rows=rows)),
        ("seeds", _of("seeds")),
        (f"mean {title(rows[0])}", _of("fid", _number)),
        ("deviation", _of("deviation", _number)),
        ("/ real", lambda row: _ratio(row["fid"], floor)),
    ]
    return _grid(columns, rows)


def per_class(block: Block) -> Grid | None:
    """Headers and rows of the distances per class, None where there are none."""
    rows = [row for row in block.all if row.get("fid_per_class")]
    if not rows:
        return None
    distances = [(name, _distance(name)) for name in _classes(rows)]
    return _grid([*_methods(block), *distances], rows)


def _methods(block: Block) -> list[Column]:
    """The columns that tell one way of sampling from another."""
    return [
        ("sampler", _of("sampler")),
        *((column, _of(column)) for column in _differing(block)),
        ("settings", _of("settings", setting)),
        ("steps", _of("steps")),
        ("NFE", _of("nfe")),
        ("w", _of("weight", _number)),
        ("1 + w", _of("scale", _number)),
    ]


def _differing(block: Block) -> list[str]:
    return varying(block.rows, _shared(block))


def _shared(block: Block) -> list[str]:
    """The columns that are shown only where rows differ in them."""
    return [column for column in (*block.identity, "seed") if column not in ALWAYS]


def _grid(columns: Sequence[Column], rows: Sequence[Row]) -> Grid:
    full = [(head, [cell(row) for row in rows]) for head, cell in columns]
    kept = [(head, body) for head, body in full if any(body)]
    lines = zip(*(body for _, body in kept), strict=True)
    return [head for head, _ in kept], [list(line) for line in lines]


def _of(column: str, form: Callable[[Any], str] = text) -> Callable[[Row], str]:
    return lambda row: form(row.get(column))


def _with(column: str, error: str) -> Callable[[Row], str]:
    """A figure with its error: `0.1234 ± 0.012`."""

    def cell(row: Row) -> str:
        told = _number(row.get(column))
        return f"{told} ± {row[error]:.2g}" if told and row.get(error) is not None else told

    return cell


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _distance(label: str) -> Callable[[Row], str]:
    return lambda row: _number(row["fid_per_class"].get(label))


def _worst(row: Row) -> str:
    """The class farthest from the reference's images of it, and how far that is."""
    distances = row.get("fid_per_class") or {}
    if not distances:
        return ""
    label = max(distances, key=distances.__getitem__)
    return f"{label}: {_number(distances[label])}"


def _number(value: Any) -> str:
    """Four significant digits, for 0.0123 and 431 alike."""
    return "" if value is None else f"{value:.4g}"


def _ratio(value: float | None, floor: float | None) -> str:
    return f"{value / floor:.3g}" if value is not None and floor else ""


def _classes(rows: Sequence[Row]) -> list[str]:
    """The classes that have distances, in the data set's order; by number in rows of 0.1.0."""
    found = {name for row in rows for name in row["fid_per_class"]}
    place = {name: int(name) for name in found if name.isdigit()}
    for row in rows:
        place |= {name: k for k, name in enumerate(row.get("classes") or ())}
    return sorted(found, key=lambda name: (place.get(name, len(found)), name))
