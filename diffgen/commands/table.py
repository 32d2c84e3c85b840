"""`diffgen table`: the cells of runs and sweeps gathered into one table."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from diffgen.errors import UsageError, refuse
from diffgen.evaluation import table
from diffgen.evaluation.pivot import column_named, pivoted
from diffgen.evaluation.rows import Block, blocks
from diffgen.evaluation.table_csv import as_csv
from diffgen.evaluation.table_formats import ENDINGS, Part, formatted, print_parts
from diffgen.files import write_atomically
from diffgen.runs.result_file import collect
from diffgen.sampling.report import cells_in, failures


def main(words: Sequence[str]) -> int:
    """Print the table of these folders' cells and write it where --out says."""
    options = _parser().parse_args(words)
    rows = collect(cells_in(options.folders))
    failed = [job for folder in options.folders for job in failures(folder)]
    found = blocks(rows) if rows or not failed else []
    if options.sort:
        column = column_named(options.sort, found)
        found = [block.by(column, options.descending) for block in found]
    if options.pivot:
        shown = [*_pivoted(found, options), *table.failed_parts(failed)]
    else:
        shown = table.parts(found, failed, classes=bool(options.format))
    whole = options.format == "csv" and not options.pivot
    text = as_csv(found, failed) if whole else formatted(options.format or "md", shown)
    if options.out:
        table.write_blocks(options.out, found, failed)
    if options.out and (options.format or options.pivot):
        name = f"{'pivot' if options.pivot else 'table'}.{ENDINGS[options.format or 'md']}"
        write_atomically(options.out / name, lambda file: file.write(text.encode()))
    if options.format:
        print(text, end="")
    else:
        print_parts(shown)
    return 0


def _pivoted(found: Sequence[Block], options: argparse.Namespace) -> list[Part]:
    words = options.pivot.split(",")
    if len(words) != 2:
        raise UsageError("--pivot takes two columns, as --pivot sampler,steps")
    rows, columns = (column_named(word, found) for word in words)
    figure = column_named(options.figure or "fid", found)
    return [pivoted(block, rows, columns, figure) for block in found]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffgen table", description=__doc__)
    parser.error = refuse  # one line in place of argparse's page
    parser.add_argument(
        "folders", metavar="FOLDER", nargs="+", type=Path, help="runs, sweeps or their jobs"
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
