"""Tables of scores: table.csv for programs, table.md for readers, table.png for a glance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffgen.evaluation.influence import best_rows
from diffgen.evaluation.plot import draw
from diffgen.evaluation.rows import Block, Row, number, pooled, setting, text, title, varying
from diffgen.evaluation.table_csv import as_csv
from diffgen.evaluation.table_formats import Grid, Part, formatted
from diffgen.evaluation.table_header import header, legend
from diffgen.evaluation.training_table import training_parts
from diffgen.evaluation.trainings import TRAINING
from diffgen.files import write_text

SHARES = ("accuracy", "precision", "recall", "density", "coverage", "saturation")
NOVELTY = {"AuthPct": "authpct", "C_T": "c_t"}
NOVELTY |= {f"{head} pixels": f"{name}_pixels" for head, name in NOVELTY.items()}
OVER_SEEDS = "The same over seeds:"
PER_CLASS = "The same distance for each class alone:"
FAILED = "Jobs that failed:"

Column = tuple[str, Callable[[Row], str]]


def write(
    folder: Path,
    found: Sequence[Block],
    failed: Sequence[Mapping[str, str]] = (),
    trained: Sequence[Row] = (),
) -> None:
    """Write table.csv, table.md and, where there are distances, table.png into the folder.

    Jobs that failed (`job`, `settings`, `reason`) come last; `trained` are rows of trainings.
    """
    write_text(folder / "table.csv", as_csv(found, failed, trained))
    write_text(folder / "table.md", formatted("md", parts(found, failed, trained)))
    draw(folder / "table.png", found)


def parts(
    found: Sequence[Block],
    failed: Sequence[Mapping[str, str]] = (),
    trained: Sequence[Row] = (),
    classes: bool = True,
) -> list[Part]:
    """Trainings, each block's table, its means over seeds and by class, and the failed jobs."""
    made = training_parts(trained)
    for block in found:
        made.append(Part(f"{header(block)}{legend(block)}", main_cells(block)))
        for text_above, grid in (
            (OVER_SEEDS, over_seeds(block)),
            (PER_CLASS, per_class(block) if classes else None),
        ):
            made += [Part(text_above, grid)] if grid else []
    return [*made, *failed_parts(failed)]


def failed_parts(failed: Sequence[Mapping[str, str]]) -> list[Part]:
    """The table of the jobs that failed; none without any."""
    columns = ["job", "settings", "reason"]
    body = [[str(row[column]) for column in columns] for row in failed]
    return [Part(FAILED, (columns, body))] if failed else []


def main_cells(block: Block) -> Grid:
    """Headers and rows of the block, without empty columns."""
    floor, best = (block.floor or {}).get("fid"), best_rows(block.rows)
    columns: list[Column] = [
        *_methods(block),
        (title(block.all[0]), _with("fid", "fid_error")),
        ("best", lambda row: "*" if row in best else ""),
        ("/ real", lambda row: _ratio(row.get("fid"), floor)),
        (f"{title(block.all[0])} test", _of("fid_test", number)),
        (f"{title(block.all[0])} infinite", _of("fid_infinity", number)),
        ("KID", _with("kid", "kid_error")),
        ("MIND", _of("mind", number)),
        ("IS", _with("is", "is_std")),
        *((name, _of(name, _share)) for name in SHARES),
        *((head, _of(name, number)) for head, name in NOVELTY.items()),
        ("worst class", _worst),
        ("images/s", _of("images_per_second", number)),
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
        (f"mean {title(rows[0])}", _of("fid", number)),
        ("deviation", _of("deviation", number)),
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
        *(column for name in block.differing for column in _expanded(block, name)),
        ("settings", _of("settings", setting)),
        ("steps", _of("steps")),
        ("NFE", _of("nfe", number)),
        ("w", _of("weight", number)),
        ("1 + w", _of("scale", number)),
    ]


def _expanded(block: Block, name: str) -> list[Column]:
    """A column, or one for each setting in which the rows' trainings differ."""
    if name != TRAINING:
        return [(name, _of(name, setting))]
    trainings = [row.get(TRAINING) or {} for row in block.rows]
    keys = varying(trainings, list(dict.fromkeys(key for each in trainings for key in each)))
    return [
        (key, lambda row, key=key: setting((row.get(TRAINING) or {}).get(key))) for key in keys
    ]


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
        figure = number(row.get(column))
        known = figure and row.get(error) is not None
        return f"{figure} ± {row[error]:.2g}" if known else figure

    return cell


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _distance(label: str) -> Callable[[Row], str]:
    return lambda row: number(row["fid_per_class"].get(label))


def _worst(row: Row) -> str:
    """The class farthest from the reference's images of it, and how far that is."""
    distances = row.get("fid_per_class") or {}
    if not distances:
        return ""
    label = max(distances, key=distances.__getitem__)
    return f"{label}: {number(distances[label])}"


def _ratio(value: float | None, floor: float | None) -> str:
    return f"{value / floor:.3g}" if value is not None and floor else ""


def _classes(rows: Sequence[Row]) -> list[str]:
    """The classes that have distances, in the data set's order; by number in rows of 0.1.0."""
    found = {name for row in rows for name in row["fid_per_class"]}
    place = {name: int(name) for name in found if name.isdigit()}
    for row in rows:
        place |= {name: k for k, name in enumerate(row.get("classes") or ())}
    return sorted(found, key=lambda name: (place.get(name, len(found)), name))
