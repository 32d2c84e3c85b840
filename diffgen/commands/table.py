"""`diffgen table`: trainings, and the cells of runs and sweeps, gathered into tables."""

from argparse import Namespace
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from diffgen.commands.arguments import Parser
from diffgen.errors import UsageError
from diffgen.evaluation import table
from diffgen.evaluation.pivot import column_named, pivoted
from diffgen.evaluation.rows import Block, blocks, by
from diffgen.evaluation.table_csv import as_csv
from diffgen.evaluation.table_formats import ENDINGS, Part, formatted, print_parts
from diffgen.evaluation.training_table import with_differences
from diffgen.files import write_text
from diffgen.runs.result_file import collect
from diffgen.sampling.publishing import cells_in, failures
from diffgen.sampling.training_row import training_rows


def main(words: Sequence[str]) -> int:
    """Print the tables of what stands at these paths and write them where --out says."""
    if any(a == "--sort" and b.startswith("-") for a, b in pairwise(words)):
        raise UsageError(
            "--sort takes a column, as --sort fid; --descending has the greatest first"
        )
    options = _parser().parse_args(words)
    trained = with_differences(training_rows(options.paths))
    folders = [path for path in options.paths if path.is_dir()]
    rows = collect(cells_in(folders))
    failed = [job for folder in folders for job in failures(folder)]
    found = blocks(rows) if rows or not failed + trained else []
    if options.sort:
        column = column_named(options.sort, found, trained)
        found = [block.by(column, options.descending) for block in found]
        trained = by(trained, column, options.descending)
    if options.pivot:
        shown = [*_pivoted(found, options), *table.failed_parts(failed)]
    else:
        shown = table.parts(found, failed, trained, classes=bool(options.format))
    whole = options.format == "csv" and not options.pivot
    text = as_csv(found, failed, trained) if whole else formatted(options.format or "md", shown)
    if options.out:
        table.write(options.out, found, failed, trained)
    if options.out and (options.format or options.pivot):
        name = f"{'pivot' if options.pivot else 'table'}.{ENDINGS[options.format or 'md']}"
        write_text(options.out / name, text)
    if options.format:
        print(text, end="")
    else:
        print_parts(shown)
    return 0


def finish_training_sweep(folder: Path) -> None:
    """Write and print the table of a sweep's trainings and of its jobs that failed."""
    trained, failed = with_differences(training_rows([folder])), failures(folder)
    if trained or failed:
        table.write(folder, [], failed, trained)
        print_parts(table.parts([], failed, trained))
        print(folder)


def _pivoted(found: Sequence[Block], options: Namespace) -> list[Part]:
    words = options.pivot.split(",")
    if len(words) != 2:
        raise UsageError("--pivot takes two columns, as --pivot sampler,steps")
    rows, columns = (column_named(word, found) for word in words)
    figure = column_named(options.figure or "fid", found)
    return [pivoted(block, rows, columns, figure) for block in found]


def _parser() -> Parser:
    parser = Parser("table", __doc__)
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", type=Path, help="runs, sweeps, jobs, checkpoints"
    )
    parser.add_argument(
        "--sort", metavar="COLUMN", help="order of rows: fid, NFE, images/s, optimizer.lr, ..."
    )
    parser.add_argument("--descending", action="store_true", help="the greatest first")
    parser.add_argument(
        "--pivot", metavar="ROWS,COLUMNS", help="one figure by two columns: sampler,steps"
    )
    parser.add_argument(
        "--figure", metavar="COLUMN", help="the figure of a pivot; the distance by default"
    )
    parser.add_argument("--format", choices=list(ENDINGS), help="print it so, and nothing else")
    parser.add_argument(
        "--out", type=Path, help="folder for table.csv, table.md, table.png and what is printed"
    )
    return parser
