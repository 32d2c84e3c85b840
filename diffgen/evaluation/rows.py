"""The rows of a table: their columns, their order, and which may stand together."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import groupby
from operator import or_
from statistics import fmean, stdev
from typing import Any

from diffgen.errors import UsageError
from diffgen.evaluation.trainings import TRAINING, flat, with_trainings

Row = dict[str, Any]

FLOOR = "real (test)"
COLUMNS = (
    *("checkpoint", "run", "training", "step", "ema", "sampler", "settings"),
    *("steps", "spacing", "nfe", "guidance", "weight", "scale", "start", "clip"),
    *("numeric_precision", "labels", "seed", "n"),
    *("features", "features_hash", "reference", "reference_hash"),
    *("fid", "fid_error", "fid_test", "fid_infinity", "kid", "kid_std", "kid_error", "mind"),
    *("is", "is_std", "accuracy", "precision", "recall", "density", "coverage"),
    *("authpct", "c_t", "nearer", "authpct_pixels", "c_t_pixels", "nearer_pixels"),
    *("saturation", "fid_per_class", "classes"),
    *("seconds", "images_per_second", "versions"),
)
ESSENTIAL = ("sampler", "n", "features", "features_hash", "reference", "reference_hash")
NUMBERS = (
    *("step", "steps", "nfe", "weight", "scale", "seed", "n", "fid", "fid_error", "fid_test"),
    *("fid_infinity", "kid", "kid_std", "kid_error", "mind", "is", "is_std", "accuracy"),
    *("precision", "recall", "density", "coverage"),
    *("authpct", "c_t", "nearer", "authpct_pixels", "c_t_pixels", "nearer_pixels"),
    *("saturation", "seconds", "images_per_second"),
)
ALWAYS = ("sampler", "settings", "steps", "weight")  # columns of every table
EARLIER = (  # the identity of rows written by 0.1.0, which do not name it
    *("checkpoint", "step", "ema", "sampler", "settings", "guidance", "weight", "steps"),
    *("spacing", "start", "clip", "numeric_precision", "labels"),
)


def identity_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The columns that tell one way of sampling from another: each row names its own.

    What tells the trainings of its checkpoints apart stands for their names, where rows have it.
    """
    named = (row.get("identity", EARLIER) for row in rows if row["sampler"] != FLOOR)
    found = list(dict.fromkeys(column for columns in named for column in columns)) or [*EARLIER]
    if any(row.get(TRAINING) for row in rows):
        found = [TRAINING if column == "checkpoint" else column for column in found]
    return tuple(found)


@dataclass(frozen=True)
class Block:
    """Rows that compare, in order: of one extractor, one reference and one n.

    `floor` is the row of real images, None where it is missing.
    """

    n: int
    floor: Row | None
    rows: Sequence[Row]

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns that tell one way of sampling from another."""
        return identity_of(self.rows)

    @property
    def all(self) -> list[Row]:
        """The rows with the floor before them."""
        return [*([self.floor] if self.floor else []), *self.rows]

    @property
    def shared(self) -> list[str]:
        """The columns that are shown only where rows differ in them."""
        return [column for column in (*self.identity, "seed") if column not in ALWAYS]

    @property
    def differing(self) -> list[str]:
        """Those of them in which rows differ."""
        return varying(self.rows, self.shared)

    def by(self, column: str, descending: bool = False) -> "Block":
        """The same with its rows in the order of a column; those without it stand last."""
        return replace(self, rows=by(self.rows, column, descending))


def by(rows: Sequence[Row], column: str, descending: bool = False) -> list[Row]:
    """The rows in the order of a column; those without it stand last."""
    have = [row for row in rows if value_of(row, column) is not None]
    have.sort(key=lambda row: rank(value_of(row, column)), reverse=descending)
    return [*have, *(row for row in rows if value_of(row, column) is None)]


def value_of(row: Row, column: str) -> Any:
    """What a row has in a column, or in a setting of its sampler or its training."""
    training = row.get(TRAINING) or {}
    if column in row or column in training:
        return training.get(column, row.get(column))
    given, _, key = column.partition(".")
    settings = row.get("settings") or {}
    return settings.get(key) if given == "settings" else flat(row.get("recipe") or {}).get(column)


def blocks(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    """The rows by extractor, reference and n: only rows that share all three compare.

    UsageError without rows, and for one that does not say what it was measured by. Where rows are
    of several checkpoints, `training` holds what tells theirs from the others.
    """
    if not rows:
        raise UsageError("no rows for a table: run `diffgen sample` with metrics first")
    for row in rows:
        missing = [key for key in ESSENTIAL if row.get(key) is None]
        if missing:
            raise UsageError(f"a row of the table lacks {', '.join(missing)}")

    def kind(row: Row) -> tuple[Any, ...]:
        return *(row[key] for key in ESSENTIAL if key not in ("sampler", "n")), row["n"]

    named = sorted(with_trainings(rows), key=kind)
    return [_block(kinds[-1], list(group)) for kinds, group in groupby(named, key=kind)]


def _block(n: int, mine: Sequence[Row]) -> Block:
    floors = [row for row in mine if row["sampler"] == FLOOR]
    others = [row for row in mine if row["sampler"] != FLOOR]
    return Block(n, _merged(floors), sorted(others, key=_place(identity_of(others))))


def _merged(floors: Sequence[Row]) -> Row | None:
    """One floor of those scored at different times, perhaps by different metrics."""
    known = [{key: value for key, value in row.items() if value is not None} for row in floors]
    return reduce(or_, sorted(known, key=text)) if known else None


def _place(identity: Sequence[str]) -> Callable[[Row], tuple[Any, ...]]:
    """The key by which rows are sorted."""
    order = (*identity, "nfe", "seed")
    return lambda row: tuple(rank(row.get(key)) for key in order)


def rank(value: object) -> tuple[bool, float, str]:
    """Nothing first, then numbers, 0 the same as 0.0, then text."""
    if isinstance(value, int | float):
        return True, value, ""
    return value is not None, 0, setting(value)


def pooled(rows: Sequence[Row]) -> list[Row]:
    """A row for each setting of sampling that has a distance: the mean over its `seeds`.

    `low` and `high` are the least and the greatest distance. `deviation` is that of one seed, with
    n - 1 in the denominator, None where there is but one. NFE is the mean, too.
    """
    identity = identity_of(rows)
    place = _place(identity)
    scored = sorted((row for row in rows if row.get("fid") is not None), key=place)
    alike = groupby(scored, key=lambda row: place(row)[: len(identity)])
    return [_mean(list({row.get("seed"): row for row in group}.values())) for _, group in alike]


def _mean(group: Sequence[Row]) -> Row:
    distances = [row["fid"] for row in group]
    evaluations = [row["nfe"] for row in group if row.get("nfe") is not None]
    return {
        **group[0],
        "seed": None,
        "seeds": len(group),
        "nfe": round(fmean(evaluations), 2) if evaluations else None,
        "fid": fmean(distances),
        "low": min(distances),
        "high": max(distances),
        "deviation": stdev(distances) if len(group) > 1 else None,
    }


def title(row: Row) -> str:
    """`FID` for Inception's features, else `FD(extractor)`."""
    name = row["features"]
    return "FID" if name.startswith("inception") else f"FD({name})"


def caption(row: Row) -> str:
    """A way of sampling in a few words: `ddim, eta=0.5, 10 steps, w = 1`."""
    steps, weight = row.get("steps"), row.get("weight")
    words = (
        *(setting(row.get(TRAINING)), row.get("sampler"), setting(row.get("settings"))),
        f"{steps} steps" if steps else "",
        f"w = {weight:g}" if weight else "",
    )
    return ", ".join(filter(None, words))


def text(value: object) -> str:
    """A value as a cell of a file: full precision, mappings as JSON, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, sort_keys=True)
    return str(value)


def number(value: Any) -> str:
    """Four significant digits, for 0.0123 and 431 alike."""
    return "" if value is None else f"{value + 0.0:.4g}"  # 0 for -0.0


def setting(value: object) -> str:
    """Settings as a reader sees them: `eta=0.5, start=prior`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={value[key]}" for key in sorted(value))
    return ", ".join(map(text, value)) if isinstance(value, list | tuple) else text(value)


def varying(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """Those of the columns in which the rows differ."""
    return [column for column in columns if len({text(row.get(column)) for row in rows}) > 1]
