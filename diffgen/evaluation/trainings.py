"""What tells trainings apart: the settings in which their recipes differ, else their runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TRAINING = "training"  # the column of a table
BRINGING = ("dataset", "model")  # they bring most of the other settings with them
BESIDE = (  # of a training's course and place, not of what it learns
    *("runs", "cache", "logger", "preview", "evaluate", "resume", "compile", "channels_last"),
    *("trust", "init_hash", "trainer.accelerator", "trainer.devices", "trainer.accumulate"),
    *("trainer.save_every", "trainer.snapshot_every", "trainer.log_every", "trainer.workers"),
    "dataset.root",
)


def with_trainings(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies of the rows; of several checkpoints each has in `training` what tells it apart.

    That is what differs between the recipes, and the run where these and the step are alike.
    """
    found = [dict(row) for row in rows]
    named = sorted(
        (row for row in found if row.get("checkpoint")), key=lambda row: "recipe" in row
    )
    made = {_content(row): row for row in named}  # of rows of 0.1.0 and later ones, a later one
    differing = dict(zip(made, trainings(list(made.values())), strict=True))
    for row in found:
        if row.get("checkpoint") and differing[_content(row)]:
            row[TRAINING] = differing[_content(row)]
    return found


def trainings(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What tells these checkpoints apart, one a row: of their recipes, else of their runs."""
    recipes = [row.get("recipe") or {} for row in rows]
    found = differences(recipes) if all(recipes) else [{} for _ in rows]
    places = [_typed([each, row.get("step")]) for each, row in zip(found, rows, strict=True)]
    if len(set(places)) == len(places):
        return found
    runs = short_paths([row.get("run") or row["checkpoint"] for row in rows])
    if len({_typed([run, row.get("step")]) for run, row in zip(runs, rows, strict=True)}) < len(
        rows
    ):
        runs = [f"{run} [{_content(row)}]" for run, row in zip(runs, rows, strict=True)]
    return [{**each, "run": run} for each, run in zip(found, runs, strict=True)]


def short_paths(paths: Sequence[str]) -> list[str]:
    """Paths without the folders that stand before all of them; one alone keeps two names."""
    parts = [Path(path).parts for path in paths]
    same = 0
    while len({each[: same + 1] for each in parts}) == 1 and same < min(map(len, parts)) - 2:
        same += 1
    return [Path(*each[same:]).as_posix() for each in parts]


def _content(row: Mapping[str, Any]) -> str:
    return row.get("checkpoint_hash") or f"{row['checkpoint']} at {row.get('step')}"


def flat(recipe: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The settings of a recipe by the keys that are typed: `model`, `optimizer.lr`."""
    found: dict[str, Any] = {}
    for key, value in recipe.items():
        name = above.rstrip(".") if key == "name" and above else f"{above}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = value
    return found


def differences(recipes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each recipe, plain data, the settings in which they differ.

    What follows from the choice of a model, a data set or the same group is left out, so that
    recipes of two models differ in `model` alone.
    """
    flattened = [flat(recipe) for recipe in recipes]
    keys = dict.fromkeys(key for each in flattened for key in each if not _beside(key))
    differing = [key for key in keys if len({_typed(each.get(key)) for each in flattened}) > 1]
    kept = [key for key in differing if not _follows(key, differing, flattened)]
    kept.sort(key=lambda key: ((*BRINGING, key).index(key), key))
    return [{key: _shown(each.get(key)) for key in kept} for each in flattened]


def _beside(key: str) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in BESIDE)


def _follows(key: str, differing: Sequence[str], recipes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the names that differ leave one value for this key."""
    names = [k for k in (*BRINGING, key.partition(".")[0]) if k in differing and k != key]
    if not names or key in BRINGING:
        return False
    values: dict[str, set[str]] = {}
    for each in recipes:
        chosen = _typed([each.get(name) for name in names])
        values.setdefault(chosen, set()).add(_typed(each.get(key)))
    return all(len(found) == 1 for found in values.values())


def _typed(value: Any) -> str:
    return repr(float(value) if isinstance(value, int) and type(value) is not bool else value)


def _shown(value: Any) -> Any:
    """A value as it is typed on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else value
