"""A figure over two columns: a table as papers print it, and the columns as they are typed."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from diffgen.errors import UsageError, did_you_mean
from diffgen.evaluation.influence import best_rows
from diffgen.evaluation.rows import FLOOR, Block, Row, number, rank, setting, text, title, value_of
from diffgen.evaluation.table import NOVELTY
from diffgen.evaluation.table_csv import UNLISTED
from diffgen.evaluation.table_formats import BEST, Part
from diffgen.evaluation.table_header import header
from diffgen.evaluation.training_table import TITLES
from diffgen.evaluation.trainings import TRAINING, flat

ERRORS = {"fid": "fid_error", "kid": "kid_error", "is": "is_std"}


def column_named(word: str, found: Sequence[Block], trained: Sequence[Row] = ()) -> str:
    """The column meant by a word: its name in table.csv, its head, or a key of a recipe.

    UsageError where no row has anything in it, neither of the blocks nor of trainings.
    """
    rows = [*trained, *(row for block in found for row in block.rows)]
    known = {key for row in rows for key, value in row.items() if value not in (None, {}, [])}
    known |= {f"settings.{key}" for row in rows for key in row.get("settings") or {}}
    known -= {*UNLISTED, TRAINING, "seal"}
    of_recipes = {key for row in rows for key in flat(row.get("recipe") or {})}
    heads = {head.lower(): key for key, head in TITLES.items()}
    heads |= {head.lower(): key for block in found for head, key in heads_of(block).items()}
    name = heads.get(word.lower(), word)
    if name in known or name in of_recipes:
        return name
    raise UsageError(f"no row has a column {word!r}{did_you_mean(word, known)}")


def heads_of(block: Block) -> dict[str, str]:
    """The heads of the block's columns whose names in table.csv are others, and these."""
    distance = title(block.all[0])
    return {
        **{"NFE": "nfe", "w": "weight", "1 + w": "scale", "images/s": "images_per_second"},
        **{distance: "fid", f"{distance} test": "fid_test"},
        **{f"{distance} infinite": "fid_infinity", "KID": "kid", "MIND": "mind", "IS": "is"},
        **NOVELTY,
    }


def pivoted(block: Block, rows: str, columns: str, figure: str) -> Part:
    """The figure for each value of one column by those of another, over seeds its mean.

    Rows that differ in more than these two and the seed get columns for that on the left. Of
    distances the best one, and those that are not told apart from it, are marked. UsageError where
    no row has the figure.
    """
    shown = [row for row in block.rows if isinstance(row.get(figure), int | float)]
    if not shown:
        raise UsageError(f"no row of n = {block.n} has a number in {figure}")
    left = _left(shown, block.identity, rows, columns)
    across = {text(value_of(row, columns)): value_of(row, columns) for row in shown}
    labels: dict[str, list[Any]] = {}
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in shown:
        label = [value_of(row, key) for key in left]
        labels[text(label)] = label
        cells.setdefault((text(label), text(value_of(row, columns))), []).append(row)
    ordered = sorted(across, key=lambda name: rank(across[name]))
    best = best_rows(block.rows) if figure == "fid" else []
    body = [
        [*map(setting, label), *(_cell(cells.get((name, at), []), figure, best) for at in ordered)]
        for name, label in sorted(labels.items(), key=lambda each: list(map(rank, each[1])))
    ]
    heads = {key: head for head, key in heads_of(block).items()}
    across_head = heads.get(columns, columns)
    about = [f"{heads.get(figure, figure)} by {across_head}."]
    if any(len({row.get("seed") for row in each}) > 1 for each in cells.values()):
        about.append("Of several seeds the mean ± the deviation of one.")
    if block.floor and block.floor.get(figure) is not None:
        about.append(f"{FLOOR}: {_cell([block.floor], figure, [])}.")
    return Part(
        " ".join([*about, header(replace(block, rows=shown))]),
        (
            [
                *(heads.get(key, key) for key in left),
                *(f"{across_head} = {setting(across[name])}" for name in ordered),
            ],
            body,
        ),
    )


def _left(shown: Sequence[Row], identity: Sequence[str], rows: str, columns: str) -> list[str]:
    """The columns that name a pivot's rows: `rows`, and what else tells ways in a cell apart."""
    differing = dict.fromkeys(key for row in shown for key in row.get(TRAINING) or {})
    left = [rows]
    for key in (part for name in identity for part in (differing if name == TRAINING else [name])):

        def places(keys: Sequence[str]) -> int:
            return len({text([value_of(row, key) for key in keys]) for row in shown})

        if key != columns and places([*left, columns, key]) > places([*left, columns]):
            left.append(key)
    return left


def _cell(rows: Sequence[Row], figure: str, best: Sequence[Row]) -> str:
    """A figure with its error, or the mean over seeds with the deviation of one of them."""
    values = list({row.get("seed"): row for row in rows}.values())
    if not values:
        return ""
    if len(values) > 1:
        figures = [row[figure] for row in values]
        return f"{number(fmean(figures))} ± {stdev(figures):.2g}"
    (row,) = values
    error = row.get(ERRORS.get(figure, ""))
    shown = number(row[figure]) + (f" ± {error:.2g}" if error is not None else "")
    return shown + (BEST if row in best else "")
