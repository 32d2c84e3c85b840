"""How far a reader of the code goes: files, functions and moves between files of one command.

    python scripts/walks.py RUN      # the folder of a run, as `diffgen train` prints it

Function calls inside the package are recorded by a profiler while `diffgen sample` draws a few
images; imports do not count, nor do comprehensions, which are no functions from Python 3.12 on.
A move is a call in another file than the call before it.
"""

import contextlib
import importlib
import inspect
import io
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

WORDS = ("sampler=ddim", "sampler.eta=0.5", "steps=3", "num_samples=10", "accelerator=cpu")
COMPREHENSIONS = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")
# From the first call of one function to the first of another; None: from the beginning.
WALKS = {
    "command line to the sampler's loop": (None, "DDIM.trajectory"),
    "noise to the written row": ("Generate.draw", "Cell.keep_row"),
}


def main(run: str) -> None:
    """Record one command and print its walks."""
    origin = Path.cwd()
    package = Path(importlib.import_module("diffgen").__file__ or "").parent
    calls: list[tuple[str, str]] = []

    def record(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        function = code.co_flags & inspect.CO_OPTIMIZED  # not the body of a class or a file
        if event == "call" and function and code.co_filename.startswith(str(package)):
            name = getattr(code, "co_qualname", code.co_name)
            if not name.endswith(COMPREHENSIONS):
                calls.append((code.co_filename, name))

    command: Any = importlib.import_module("diffgen.cli")
    if not callable(getattr(command, "main", None)):  # a room since 0.2.0
        command = importlib.import_module("diffgen.cli.main")
    words = ("sample", "checkpoint=run", *WORDS)
    with TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copytree(Path(origin) / run, "run", ignore=shutil.ignore_patterns("cells"))
        os.environ["DIFFGEN_CACHE"] = str(Path(folder) / "cache")
        earlier = (sys.executable, "-m", "diffgen", *words, "seed=1")  # fits the classifier, once
        subprocess.run(earlier, check=True, capture_output=True)
        with contextlib.redirect_stdout(io.StringIO()):
            sys.setprofile(record)
            try:
                command.main([*words])
            finally:
                sys.setprofile(None)
    names = [name for _, name in calls]
    for title, (start, end) in WALKS.items():
        first = names.index(start) if start else 0
        walk = calls[first : names.index(end, first) + 1]
        files = [file for file, _ in walk]
        moves = sum(a != b for a, b in pairwise(files))
        print(f"{title}: {len(set(files))} files, {len(set(walk))} functions, {moves} moves")


if __name__ == "__main__":
    main(sys.argv[1])
