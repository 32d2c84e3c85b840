"""The curves of a training: each kind of figure in its log over the steps."""

import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from diffgen.evaluation.plot import COLOURS

Line = tuple[str, list[int], list[float]]  # name, steps, values


def curves(path: Path) -> Figure | None:
    """The columns of a metrics.csv over `step`, `loss` and `loss/...` in one panel, and so on.

    Empty values are gaps. None where there is no file, or no number in it.
    """
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    panels: dict[str, list[Line]] = {}
    for column in rows[0] if rows else ():
        points = [(row["step"], row[column]) for row in rows if row.get(column) and row["step"]]
        if points and column not in ("step", "epoch"):
            steps, values = [int(float(at)) for at, _ in points], [float(v) for _, v in points]
            panels.setdefault(column.split("/")[0], []).append((column, steps, values))
    return _drawn(list(panels.items())) if panels else None


def _drawn(panels: Sequence[tuple[str, list[Line]]]) -> Figure:
    figure = Figure(figsize=(4.4 * len(panels), 3.4), layout="constrained")
    for k, (name, lines) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), k + 1)
        for rank, (column, steps, values) in enumerate(lines):
            label = column.removeprefix(f"{name}/") if column != name else "all"
            colour = COLOURS[rank % len(COLOURS)]
            axes.plot(steps, values, color=colour, lw=1.8 if label == "all" else 0.8, label=label)
        positive = all(value > 0 for _, _, values in lines for value in values)
        axes.set(xlabel="step", title=name.replace("_", " "))
        axes.set_yscale("log" if positive and name == "loss" else "linear")
        axes.grid(color="0.9", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.legend(fontsize=6, ncols=3, frameon=False)
    return figure
