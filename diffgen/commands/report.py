"""`diffgen report`: the tables, figures and images of runs and sweeps as one HTML file."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from diffgen import __version__
from diffgen.commands.arguments import Parser
from diffgen.dataset.pixels import grid
from diffgen.errors import UsageError
from diffgen.evaluation import plot
from diffgen.evaluation.curves import curves
from diffgen.evaluation.rows import Block, Row, blocks, caption, setting, title
from diffgen.evaluation.table import FAILED, failed_parts, main_cells
from diffgen.evaluation.table_formats import Grid, text_columns
from diffgen.evaluation.table_header import header, legend
from diffgen.evaluation.training_table import of_kinds, training_parts, with_differences
from diffgen.evaluation.trainings import TRAINING, flat
from diffgen.files import write_text
from diffgen.runs.cell import Cell
from diffgen.runs.result_file import collect
from diffgen.sampling.publishing import cells_in, failures
from diffgen.sampling.training_row import training_rows

BYTES = 12_000_000  # of images, before compression, that a report holds at most
MOST = 64  # images of a cell


def main(words: Sequence[str]) -> int:
    """Write one file that needs nothing else: no network, no folder beside it."""
    parser = Parser("report", __doc__)
    parser.add_argument(
        "folders", metavar="FOLDER", nargs="+", type=Path, help="runs, sweeps or their jobs"
    )
    parser.add_argument("--out", type=Path, help="the file; report.html in the first folder")
    options = parser.parse_args(words)
    cells = cells_in(options.folders)
    runs = sorted({cell.parent.parent for cell in cells})
    trained = training_rows([*options.folders, *runs])
    failed = [job for folder in options.folders for job in failures(folder)]
    page = render(cells, trained, failed)
    out = options.out or options.folders[0] / "report.html"
    write_text(out, page)
    print(out)
    return 0


@dataclass(frozen=True)
class Entry:
    """A row of a table: its cells as text, its images and all that is known of it."""

    cells: Sequence[str]
    sampler: str
    caption: str
    details: Sequence[tuple[str, str]]
    picture: str | None  # a PNG as a data: URL
    columns: int


@dataclass(frozen=True)
class Section:
    """Rows that compare: one extractor, one reference, one n."""

    title: str
    about: str
    heads: Sequence[str]
    entries: Sequence[Entry]
    figures: Sequence[tuple[str, Markup]]
    texts: Sequence[bool]  # of each column whether it holds words


def render(
    cells: Sequence[Path], trained: Sequence[Row] = (), failed: Sequence[Mapping[str, str]] = ()
) -> str:
    """The page of these cells, trainings and jobs that failed; UsageError without any."""
    rows = [{**row, "folder": str(cell)} for cell in cells for row in collect([cell])]
    if not rows and not trained and not failed:
        raise UsageError("no rows for a report: run `diffgen sample` with metrics first")
    differing = with_differences(trained)
    sections = _sections(rows) if rows else []
    for part, alike in zip(training_parts(differing), of_kinds(differing), strict=True):
        sections.append(_listed(part.text, part.grid, [flat(row["recipe"]) for row in alike]))
    sections += [_listed(FAILED, part.grid, [{}] * len(failed)) for part in failed_parts(failed)]
    titles = {str(cell.parent.parent): cell.parent.parent.name for cell in cells}
    titles |= {
        row["run"]: ", ".join(filter(None, (setting(each[TRAINING]), each["run"])))
        for row, each in zip(trained, differing, strict=True)
    }
    logs = ((title, curves(Path(run) / "metrics.csv")) for run, title in sorted(titles.items()))
    pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    template = pages.get_template("report.html")
    trainings = [(name, _svg(figure)) for name, figure in logs if figure]
    return template.render(
        version=__version__, sampled=bool(rows), sections=sections, trainings=trainings
    )


def _sections(rows: Sequence[Row]) -> list[Section]:
    """A section for each extractor, reference and n: rows of different ones do not compare."""

    def kind(row: Row) -> tuple[str, str, int]:
        return row["features_hash"], row["reference_hash"], row["n"]

    groups = [list(group) for _, group in groupby(sorted(rows, key=kind), key=kind)]
    found = [block for group in groups for block in blocks(group)]
    pictures = sum(len(block.rows) for block in found)
    return [_section(block, pictures) for block in found]


def _section(block: Block, pictures: int) -> Section:
    heads, lines = main_cells(block)
    first = block.all[0]
    figures = (
        ("against network evaluations", plot.against_evaluations([block])),
        ("against the guidance weight", plot.against_weight(block)),
    )
    return Section(
        title=f"{title(first)} of {block.n} images against {first['reference']}",
        about=f"{header(block)}{legend(block)}",
        heads=heads,
        entries=[_entry(row, line, pictures) for row, line in zip(block.all, lines, strict=True)],
        figures=[(f"{title(first)} {name}", _svg(figure)) for name, figure in figures if figure],
        texts=text_columns((heads, lines)),
    )


def _listed(about: str, grid: Grid, details: Sequence[Mapping[str, Any]]) -> Section:
    """A table of rows that are no samples."""
    heads, lines = grid
    entries = [
        Entry(line, "", "", [(k, setting(v)) for k, v in sorted(settings.items())], None, 1)
        for line, settings in zip(lines, details, strict=True)
    ]
    first, _, rest = about.partition(". ")
    return Section(first.rstrip(".:"), rest, heads, entries, [], text_columns(grid))


def _entry(row: Row, cells: Sequence[str], pictures: int) -> Entry:
    found = Cell(Path(row["folder"])).images()
    picture, columns = _sheet(found[0], pictures) if found else (None, 1)
    return Entry(
        cells,
        row["sampler"],
        caption(row) + (f", seed {row['seed']}" if row.get("seed") is not None else ""),
        [(key, setting(row[key])) for key in sorted(row) if row[key] not in (None, {}, [])],
        picture,
        columns,
    )


def _sheet(images: Tensor, pictures: int) -> tuple[str, int]:
    """The first images (N, C, H, W) of a cell as a PNG in a data: URL, and its columns."""
    count = min(len(images), max(4, min(MOST, BYTES // (pictures * images[0].numel()))))
    columns = min(8, math.isqrt(count))
    shown = images[: count // columns * columns]
    file = io.BytesIO()
    pixels = grid(shown, columns).permute(1, 2, 0).squeeze(-1).numpy()
    Image.fromarray(pixels).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", columns


def _svg(figure: Figure) -> Markup:
    """A figure as it stands in a page, the same bytes each time."""
    file = io.StringIO()
    with rc_context({"svg.hashsalt": "diffgen", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return Markup(file.getvalue()[file.getvalue().index("<svg") :])
