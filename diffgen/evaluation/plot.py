"""The picture of a table: distance against network evaluations, a line per sampler and weight.

Of several seeds the line shows the mean, and a bar from the least to the greatest; of one seed the
bar is the interval of its distance.
"""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import ScaledTranslation, Transform

from diffgen.evaluation.rows import (
    FLOOR,
    Block,
    Row,
    identity_of,
    pooled,
    setting,
    text,
    title,
    varying,
)
from diffgen.evaluation.trainings import TRAINING
from diffgen.files import write_atomically

# Okabe and Ito's colours, which differ for every kind of sight, without the yellow
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#8C564B", "#7F7F7F", "#999933", "#332288", "#AA4499", "#44AA99"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
DASHES = ("-", (0, (5, 1.5)), (0, (3, 1.2, 1, 1.2)), (0, (1, 1)))
DRAWN = ("sampler", "weight", "steps")  # by lines, markers and the axis
PLAIN_NUMBERS = FuncFormatter(lambda value, _: f"{value:g}")


def draw(path: Path, found: Sequence[Block]) -> None:
    """Write the picture as a PNG, one panel for each n; nothing where no row has a distance."""
    if figure := against_evaluations(found):
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=160))


def against_evaluations(found: Sequence[Block]) -> Figure | None:
    """Distance against network evaluations, a panel for each n; None without any distance."""
    drawn = [block for block in found if any(_visible(row) for row in block.rows)]
    if not drawn:
        return None
    figure = Figure(figsize=(1.8 + 5.2 * len(drawn), 4.2), layout="constrained")
    style = _Style([row for block in drawn for row in block.rows if _visible(row)])
    for k, block in enumerate(drawn):
        _panel(figure.add_subplot(1, len(drawn), k + 1), block, style)
    figure.legend(handles=style.legend(), loc="outside right center", frameon=False, fontsize=9)
    return figure


def against_weight(block: Block) -> Figure | None:
    """Distance against the guidance weight, a line for each way; None without two weights."""
    rows = pooled([row for row in block.rows if _visible(row)])
    if len({_weight(row) for row in rows}) < 2:
        return None
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes, style = figure.add_subplot(), _Style(rows)

    def line(row: Row) -> tuple[str, int]:
        return style.method(row), row["steps"] or 0

    steps = sorted({line(row)[1] for row in rows})
    lines = [(of, sorted(g, key=_weight)) for of, g in groupby(sorted(rows, key=line), key=line)]
    places = _beside(axes, len(lines))
    for ((method, count), ordered), beside in zip(lines, places, strict=True):
        look = {**style.line({**ordered[0], "weight": 0}), **_mark(steps.index(count))}
        label = f"{method}, {count} steps" if count else method
        _line(axes, ordered, "weight", beside, label=label, **look)
    if block.floor and block.floor.get("fid"):
        axes.axhline(block.floor["fid"], color="black", linestyle="--", lw=1, label=FLOOR)
    ylabel = f"{title(block.all[0])}, n = {block.n}"
    axes.set(yscale="log", xlabel="guidance weight w", ylabel=ylabel)
    _ticks(axes, sorted({_weight(row) for row in rows}), logarithmic=(axes.yaxis,))
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return figure


class _Style:
    """A colour for each setting of sampling, a marker and dashes for each weight.

    Where there are more settings than colours, the markers of the others are hollow.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        name = itemgetter("sampler")
        ordered = sorted(rows, key=name)
        method = [column for column in identity_of(rows) if column not in DRAWN]
        self.varying = {
            sampler: _told(list(group), method) for sampler, group in groupby(ordered, name)
        }
        self.methods = list(dict.fromkeys(self.method(row) for row in rows))
        self.weights = sorted({_weight(row) for row in rows})

    def method(self, row: Row) -> str:
        sampler = row["sampler"]
        settings = (setting(row.get(column)) for column in self.varying[sampler])
        return ", ".join(filter(None, (sampler, *settings)))

    def line(self, row: Row) -> dict[str, Any]:
        rank = self.weights.index(_weight(row)) if _weight(row) in self.weights else 0
        return {**self._look(self.method(row)), **_mark(rank)}

    def legend(self) -> list[Line2D]:
        methods = [
            Line2D([], [], **self._look(m), marker=MARKERS[0], markersize=4, lw=2.5, label=m)
            for m in self.methods
        ]
        weights = [
            Line2D([], [], color="0.35", label=f"w = {weight:g}", **_mark(rank))
            for rank, weight in enumerate(self.weights)
        ]
        floor = Line2D([], [], color="black", linestyle="--", lw=1, label=FLOOR)
        return [*methods, *(weights if self.weights != [0.0] else []), floor]

    def _look(self, method: str) -> dict[str, Any]:
        again, rank = divmod(self.methods.index(method), len(COLOURS))
        return {"color": COLOURS[rank], **({"markerfacecolor": "white"} if again else {})}


def _told(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """The columns in which rows differ, without what follows from their training."""
    found = varying(rows, columns)
    if TRAINING not in found:
        return found
    trained = len({text(row.get(TRAINING)) for row in rows})
    both = {c: len({text([row.get(TRAINING), row.get(c)]) for row in rows}) for c in found}
    return [column for column in found if column == TRAINING or both[column] > trained]


def _panel(axes: Axes, block: Block, style: _Style) -> None:
    rows = pooled([row for row in block.rows if _visible(row)])
    rows.sort(key=lambda row: _key(style, row))
    lines = [list(g) for _, g in groupby(rows, key=lambda row: _key(style, row)[:2])]
    for line, beside in zip(lines, _beside(axes, len(lines)), strict=True):
        look = style.line(line[0])
        _line(axes, line, "nfe", beside, **look)
    if block.floor and block.floor.get("fid"):
        axes.axhline(block.floor["fid"], color="black", linestyle="--", lw=1, zorder=1)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="network evaluations per image (NFE)",
        ylabel=f"{title(block.all[0])}, n = {block.n}",
    )
    _ticks(axes, sorted({row["nfe"] for row in rows}))


def _beside(axes: Axes, lines: int) -> list[Transform]:
    """Where each line is drawn: a little beside the others, so that no bar hides one of them."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    step = min(2.5, 15 / lines) / 72
    return [
        axes.transData + ScaledTranslation((k - (lines - 1) / 2) * step, 0, figure.dpi_scale_trans)
        for k in range(lines)
    ]


def _line(axes: Axes, rows: Sequence[Row], place: str, beside: Transform, **look: Any) -> None:
    at, distances = [row[place] or 0 for row in rows], [row["fid"] for row in rows]
    axes.plot(at, distances, transform=beside, **look)
    bars = _bars(rows, place)
    axes.vlines(*bars, colors=look["color"], lw=1, transform=beside)
    axes.update_datalim([*zip(at, distances, strict=True), *zip(bars[0], bars[1], strict=True)])
    axes.update_datalim(list(zip(bars[0], bars[2], strict=True)))
    axes.autoscale_view()


def _bars(rows: Sequence[Row], place: str) -> tuple[list[float], list[float], list[float]]:
    """Places and ends of the bars: the least to the greatest seed, or the interval of one."""
    bars = []
    for row in rows:
        error = row.get("fid_error")
        if row["seeds"] > 1:
            bars.append((row[place] or 0, row["low"], row["high"]))
        elif error is not None:
            bars.append(
                (row[place] or 0, max(row["fid"] - error, row["fid"] / 100), row["fid"] + error)
            )
    at, low, high = zip(*bars, strict=True) if bars else ((), (), ())
    return list(at), list(low), list(high)


def _ticks(axes: Axes, counts: Sequence[float], logarithmic: Sequence[Axis] = ()) -> None:
    for axis in logarithmic or (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(PLAIN_NUMBERS)
        axis.set_minor_locator(NullLocator())
    if len(counts) <= 6:
        axes.set_xticks(counts)
    axes.grid(which="major", color="0.9", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _visible(row: Row) -> bool:
    """Whether NFE and distance are known and can stand on a logarithmic axis."""
    return bool(row.get("nfe") and row.get("fid"))


def _key(style: _Style, row: Row) -> tuple[str, float, float]:
    return style.method(row), _weight(row), row["nfe"]


def _weight(row: Row) -> float:
    return float(row.get("weight") or 0)


def _mark(rank: int) -> dict[str, Any]:
    return {
        "marker": MARKERS[rank % len(MARKERS)],
        "linestyle": DASHES[rank % len(DASHES)],
        "markersize": 5.5,
        "lw": 1.5,
    }
