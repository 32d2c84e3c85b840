"""A table as text: Markdown, LaTeX (booktabs), HTML, CSV, and for a terminal."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup
from markupsafe import escape as escaped
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

BEST = " *"  # behind a cell: the best one, or not told apart from it
TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"[": "{[}", "*": "{*}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{"±": r"$\pm$", "\n": " "},  # [ and * behind a line's end would be its options
}
MARKS = r"[\\`<|$~]|\*(?=\S)|(?<=\S)\*|_(?!\w)|(?<!\w)_"  # and what stands alone is none

Grid = tuple[list[str], list[list[str]]]  # heads, rows of cells


class Part(NamedTuple):
    """A table and the line above it."""

    text: str
    grid: Grid


def formatted(name: str, parts: Sequence[Part]) -> str:
    """The tables one below another in a format of FORMATS."""
    return FORMATS[name](parts)


def print_parts(parts: Sequence[Part]) -> None:
    """Print the tables; one wider than the terminal in parts that fit, the same rows in each."""
    console = Console()
    for part in parts:
        print(part.text)
        for grid in _fitting(part.grid, console.width) if console.is_terminal else [part.grid]:
            table = _laid_out(grid)
            Console(width=max(_width(table), console.width)).print(table)


def _fitting(grid: Grid, width: int) -> list[Grid]:
    """The grid in parts of its columns, each behind the columns that tell its rows apart."""
    heads, body = grid
    enough = (k for k in range(1, len(heads)) if len({tuple(r[:k]) for r in body}) == len(body))
    first = list(range(next(enough, 1)))
    parts = [first]
    for column in range(len(first), len(heads)):
        longer = [*parts[-1], column]
        fits = parts[-1] == first or _width(_laid_out(_columns(grid, longer))) <= width
        parts[-1:] = [longer] if fits else [parts[-1], [*first, column]]
    return [_columns(grid, part) for part in parts]


def _columns(grid: Grid, chosen: Sequence[int]) -> Grid:
    heads, body = grid
    return [heads[k] for k in chosen], [[row[k] for k in chosen] for row in body]


def _laid_out(grid: Grid) -> Table:
    heads, body = grid
    table = Table(*map(escape, heads), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column, is_text in zip(table.columns, text_columns(grid), strict=True):
        column.justify = "left" if is_text else "right"
    for row in body:
        table.add_row(*map(escape, row))
    return table


def _width(table: Table) -> int:
    """How wide the table is where nothing is cut."""
    console = Console(width=1000)
    return Measurement.get(console, console.options, table).maximum


def comma_separated(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table for programs."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([heads, *body])
    return file.getvalue()


def _csv(parts: Sequence[Part]) -> str:
    return "\n".join(comma_separated(*part.grid) for part in parts)


def _markdown(parts: Sequence[Part]) -> str:
    return "\n\n".join(f"{as_markdown(p.text)}\n\n{_pipes(p.grid)}" for p in parts) + "\n"


def as_markdown(text: str) -> str:
    """The text with escapes before what Markdown, or HTML or formulas in it, give a meaning."""
    return re.sub(MARKS, r"\\\g<0>", " ".join(text.split("\n")))


def _pipes(grid: Grid) -> str:
    heads, *body = ([as_markdown(cell) for cell in line] for line in (grid[0], *grid[1]))
    rule = [":---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *body))


def _latex(parts: Sequence[Part]) -> str:
    tables = "\n".join(map(_tabular, parts))
    return f"% needs \\usepackage{{booktabs}}\n{tables}"


def _tabular(part: Part) -> str:
    heads, body = _starred(part.grid)
    columns = "".join("l" if is_text else "r" for is_text in text_columns((heads, body)))

    def line(cells: Sequence[str], mark: Callable[[str], str]) -> str:
        return f"{' & '.join(map(mark, cells))} \\\\"

    return "\n".join(
        [
            *(r"\begin{table}", r"\centering", f"\\caption{{{_tex(part.text)}}}"),
            *(f"\\begin{{tabular}}{{{columns}}}", r"\toprule", line(heads, _tex), r"\midrule"),
            *(line(row, _tex_marked) for row in body),
            *(r"\bottomrule", r"\end{tabular}", r"\end{table}", ""),
        ]
    )


def _tex(text: str) -> str:
    return "".join(TEX.get(c, c) for c in text)


def _tex_marked(cell: str) -> str:
    bare = cell.removesuffix(BEST)
    return _tex(cell) if bare == cell else f"\\textbf{{{_tex(bare)}}}"


def _html(parts: Sequence[Part]) -> str:
    tables = Markup("\n").join(map(_table, parts))
    return f'<!doctype html>\n<meta charset="utf-8">\n<title>diffgen table</title>\n{tables}\n'


def _table(part: Part) -> Markup:
    heads, body = _starred(part.grid)
    sides = ["left" if is_text else "right" for is_text in text_columns((heads, body))]

    def line(cells: Sequence[str], tag: str) -> Markup:
        made = (
            Markup('<{0} style="text-align: {1}">{2}</{0}>').format(tag, side, _marked(cell))
            for side, cell in zip(sides, cells, strict=True)
        )
        return Markup("<tr>{}</tr>").format(Markup("").join(made))

    return Markup(
        "<table>\n<caption>{}</caption>\n<thead>\n{}\n</thead>\n<tbody>\n{}\n</tbody>\n</table>"
    ).format(part.text, line(heads, "th"), Markup("\n").join(line(row, "td") for row in body))


def _marked(cell: str) -> Markup:
    bare = cell.removesuffix(BEST)
    return escaped(cell) if bare == cell else Markup("<b>{}</b>").format(bare)


def _starred(grid: Grid) -> Grid:
    """The grid with the marks of its column `best` behind the cells to their left."""
    heads, body = grid
    if "best" not in heads:
        return grid
    at = heads.index("best")

    def merged(row: list[str]) -> list[str]:
        mark = BEST if row[at] else ""
        return [*row[: at - 1], row[at - 1] + mark, *row[at + 1 :]]

    return [*heads[:at], *heads[at + 1 :]], [merged(row) for row in body]


def text_columns(grid: Grid) -> list[bool]:
    """Of each column whether it holds words rather than numbers; the first one does."""
    heads, body = grid
    cells = ([row[k] for row in body if row[k]] for k in range(len(heads)))
    return [
        k == 0 or (bool(column) and not any(_is_number(cell) for cell in column))
        for k, column in enumerate(cells)
    ]


def _is_number(cell: str) -> bool:
    return cell.lstrip("-")[:1].isdigit() or cell == "*"


FORMATS: dict[str, Callable[[Sequence[Part]], str]] = {
    "md": _markdown,
    "csv": _csv,
    "latex": _latex,
    "html": _html,
}
ENDINGS = {"md": "md", "csv": "csv", "latex": "tex", "html": "html"}
