"""`diffgen table`: the cells of runs and sweeps gathered into one table."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from diffgen.errors import refuse
from diffgen.evaluation import table
from diffgen.evaluation.rows import blocks
from diffgen.runs.result_file import collect
from diffgen.sampling.report import cells_in


def main(words: Sequence[str]) -> int:
    """Print the table of these folders' cells and write it where --out says."""
    parser = argparse.ArgumentParser(prog="diffgen table", description=__doc__)
    parser.error = refuse  # one line in place of argparse's page
    parser.add_argument(
        "folders", metavar="FOLDER", nargs="+", type=Path, help="runs, sweeps or their jobs"
    )
    parser.add_argument("--out", type=Path, help="folder for table.csv, table.md and table.png")
    options = parser.parse_args(words)
    rows = collect(cells_in(options.folders))
    blocks(rows)
    if options.out:
        table.write(options.out, rows)
    table.show(rows)
    return 0
