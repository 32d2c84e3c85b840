"""The table of trainings: a row for each, by what differs between their recipes."""

from collections.abc import Sequence
from itertools import groupby

from diffgen.evaluation.rows import Row, number, setting, text, varying
from diffgen.evaluation.table_formats import Grid, Part
from diffgen.evaluation.trainings import TRAINING, flat, short_paths, trainings

DISTANCE = ("evaluate.features", "evaluate.num_samples", "evaluate.steps")
FIRST = ("loss", "held_out_loss", "fd")
TITLES = {
    "held_out_loss": "held-out loss",
    "fd": "FD",
    "images_per_second": "images/s",
    "lr": "learning rate",
}
BESIDE = (
    *("checkpoint", "checkpoint_hash", "run", "step", "recipe", "best", "best_step", "best_of"),
    *(TRAINING, "images_per_second"),
)


def with_differences(rows: Sequence[Row]) -> list[Row]:
    """The rows with what tells them apart in `training`, and `run` as short as that allows."""
    differing = trainings(rows)
    runs = short_paths([row["run"] for row in rows])
    return [
        {**row, TRAINING: {k: v for k, v in each.items() if k != "run"}, "run": run}
        for row, each, run in zip(rows, differing, runs, strict=True)
    ]


def training_parts(rows: Sequence[Row]) -> list[Part]:
    """A table for each of `of_kinds`; rows are those of `with_differences`."""
    return [_part(group) for group in of_kinds(rows)]


def of_kinds(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows by data set and by how distance was measured: only such rows compare."""

    def kind(row: Row) -> tuple[str, ...]:
        return text(flat(row["recipe"]).get("dataset")), *_measured(row)

    return [list(group) for _, group in groupby(sorted(rows, key=kind), key=kind)]


def _part(rows: Sequence[Row]) -> Part:
    recipe = flat(rows[0]["recipe"])
    about = [f"Trainings on {recipe.get('dataset')}."]
    if any(row.get("fd") is not None for row in rows):
        features, count, steps = _measured(rows[0])
        taken = f"in {steps} steps" if steps else "in the sampler's own steps"
        about.append(f"FD of {count} images drawn {taken} while training, features {features}.")
    return Part(" ".join(about), _grid(rows))


def _measured(row: Row) -> tuple[str, ...]:
    """How the distance was measured while training; nothing where it was not."""
    if row.get("fd") is None:
        return ()
    recipe = flat(row["recipe"])
    return tuple(text(recipe.get(key)) for key in DISTANCE)


def _grid(rows: Sequence[Row]) -> Grid:
    keys = dict.fromkeys(key for row in rows for key in row[TRAINING])
    differing = varying([row[TRAINING] for row in rows], list(keys))
    figures = {key for row in rows for key in row if key not in BESIDE}
    ordered = [*(key for key in FIRST if key in figures), *sorted(figures - {*FIRST})]
    columns: dict[str, list[str]] = {
        **{key: [setting(row[TRAINING].get(key)) for row in rows] for key in differing},
        "step": [text(row["step"]) for row in rows],
        **{TITLES.get(key, key): [number(row.get(key)) for row in rows] for key in ordered},
        "best": [_best(row) for row in rows],
        "images/s": [number(row.get("images_per_second")) for row in rows],
        "checkpoint": [row["checkpoint"] for row in rows],
        "run": [row["run"] for row in rows],
    }
    if set(columns["checkpoint"]) == {"last.ckpt"}:
        del columns["checkpoint"]
    shown = {head: cells for head, cells in columns.items() if any(cells)}
    return list(shown), [list(line) for line in zip(*shown.values(), strict=True)]


def _best(row: Row) -> str:
    if row.get("best") is None:
        return ""
    name = TITLES.get(row["best_of"], row["best_of"])
    return f"{name} {number(row['best'])} at step {row['best_step']}"
