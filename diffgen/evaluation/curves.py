"""The curves of a training: each kind of figure in its log over the steps."""

import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from diffgen.evaluation.plot import COLOURS, PLAIN_NUMBERS
from diffgen.evaluation.training_table import TITLES

FIRST = ("loss", "held_out_loss", "fd", "images_per_second")
COLUMNS = 3
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
    ordered = {name: panels[name] for name in (*FIRST, *panels) if name in panels}
    return _drawn(list(ordered.items())) if panels else None


def _drawn(panels: Sequence[tuple[str, list[Line]]]) -> Figure:
    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.2 * rows), layout="constrained")
    for k, (name, lines) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, k + 1)
        for rank, (column, steps, values) in enumerate(lines):
            label = column.removeprefix(f"{name}/") if column != name else "all"
            colour = COLOURS[rank % len(COLOURS)]
            axes.plot(steps, values, color=colour, lw=1.8 if label == "all" else 0.8, label=label)
        positive = all(value > 0 for _, _, values in lines for value in values)
        axes.set(xlabel="step", title=TITLES.get(name, name.replace("_", " ")))
        if positive and name == "loss":
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(PLAIN_NUMBERS)
            axes.yaxis.set_minor_formatter(PLAIN_NUMBERS)
        axes.grid(color="0.9", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.legend(fontsize=7, ncols=3, frameon=False)
    return figure
