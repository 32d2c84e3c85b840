"""What a sampling or a sweep puts into a logger that takes tables and pictures (wandb)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffgen.config.parts import Named
from diffgen.evaluation.rows import COLUMNS, FLOOR, NUMBERS, Row, caption, setting, with_trainings
from diffgen.evaluation.table_csv import UNLISTED
from diffgen.evaluation.trainings import flat
from diffgen.runtime.logger import finish, logger_of

HIDDEN = (*UNLISTED, "versions", "metrics", "classes", "fid_influence")  # of a row: no columns


def log_results(
    settings: Named,
    folder: Path,
    configs: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    pictures: Mapping[Path, str],
) -> None:
    """Log the settings that the jobs share, the table, its best row as summary, and pictures.

    pictures: captions by path. Nothing where the logger takes no pictures.
    """
    logger: Any = logger_of(settings, folder, shared(configs))
    if not hasattr(logger, "log_image"):
        return
    try:
        if rows:
            first_real = sorted(rows, key=lambda row: row.get("sampler") != FLOOR)
            logger.log_table("table", *table_of(with_trainings(first_real)))
            logger.experiment.summary.update(summary_of(rows))
        if (folder / "table.png").is_file():  # there are no distances without it
            logger.log_image("figure", [str(folder / "table.png")])
        sheets = [path for path in pictures if path.name.startswith("guidance")]
        samples = [path for path in pictures if path not in sheets]
        for key, paths in (("guidance", sheets), ("samples", samples)):  # one size each
            if paths:
                told = [pictures[path] for path in paths]
                logger.log_image(key, [str(path) for path in paths], caption=told)
    finally:
        finish([logger])


def shared(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings, by the keys that are typed, that all configurations have alike."""
    told = [flat(config) for config in configs]
    first = told[0] if told else {}
    return {
        key: value
        for key, value in first.items()
        if all(key in each and each[key] == value for each in told)
    }


def table_of(rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Columns and data: numbers as numbers, what is missing as None, anything else as text."""
    present = dict.fromkeys(key for row in rows for key in row if key not in HIDDEN)
    columns = [key for key in (*COLUMNS, *sorted(present.keys() - {*COLUMNS})) if key in present]
    return columns, [[_plain(column, row.get(column)) for column in columns] for row in rows]


def summary_of(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of the row of the least distance, of the only one without any, as `way` says."""
    samples = [row for row in rows if row.get("sampler") != FLOOR and "reason" not in row]
    known = [row for row in samples if row.get("fid") is not None]
    if not known and len(samples) != 1:
        return {"rows": len(samples)}
    best = min(known, key=lambda row: row["fid"]) if known else samples[0]
    figures = {key: best[key] for key in NUMBERS if best.get(key) is not None}
    return {"rows": len(samples), "way": caption(best), **figures}


def _plain(column: str, value: Any) -> Any:
    if value is None or (column in NUMBERS and isinstance(value, str)):  # of a job that failed
        return _number(value)
    return value if isinstance(value, int | float) else setting(value)


def _number(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None
