"""The `diffgen` command: its first word picks what runs. Nothing heavy is imported on the way."""

import os
import sys
from collections.abc import Sequence
from pkgutil import resolve_name

from diffgen import __version__
from diffgen.cli.output import complain, prepare
from diffgen.cli.registry import COMMANDS, Command, usage
from diffgen.errors import UsageError, did_you_mean


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the run failed, 2 wrong use, 130 Ctrl-C, 141 unread, 143 SIGTERM."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        prepare()
        share_processors()
        if not os.environ.get("DIFFGEN_CACHE"):  # empty, which would be the working folder
            os.environ.pop("DIFFGEN_CACHE", None)
        status = answer(words)
        sys.stdout.flush()
        return status
    except UsageError as error:
        complain(str(error))
        return error.status
    except KeyboardInterrupt:
        complain("stopped by Ctrl-C")
        return 130
    except BrokenPipeError:  # as in `diffgen train --help | head`
        # Python flushes at its end, and would complain of the same once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:  # of a command that Hydra does not run
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        complain(f"{type(error).__name__}: {first}")
        return 1


def share_processors() -> None:
    """Lets OpenMP's threads spin for less long at a barrier, unless the user said how they wait.

    Threads that spin hold processors which other programs need, and then wait for one another. It
    must be set before torch is imported; docs/log.md has the measurements.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "3000"


def answer(words: list[str]) -> int:
    """Runs one command line, given without the program's name."""
    first, rest = (words[0], words[1:]) if words else ("help", [])
    if first in COMMANDS:
        return run(COMMANDS[first], rest)
    if first in ("-h", "--help", "help"):
        print(usage())
    elif first == "--version":
        print("diffgen", __version__)
    elif first in ("-sc", "--shell-completion"):
        return complete(rest)
    else:
        raise UsageError(f"no command {first!r}{did_you_mean(first, COMMANDS)}")
    return 0


def run(command: Command, words: list[str]) -> int:
    """Exit status of a command with the words after its name."""
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(f"no working folder ({error.strerror}): go to another one") from None
    if not command.composed:
        try:
            return resolve_name(command.task)(words) or 0
        except UsageError as error:
            shown = UsageError(command.message(error))
            shown.status = error.status
            raise shown from error
    from diffgen.cli import hydra_app

    return hydra_app.run(command, words)


def complete(words: list[str]) -> int:
    """Answers `diffgen -sc install=SHELL` and the queries of the script which that prints."""
    if not any(word.startswith("query=") for word in words):
        return run(COMMANDS["train"], ["-sc", *words])
    line = os.environ.get("COMP_LINE", "")
    program, *typed = [*line.split(), *([""] if line.endswith(" ") or not line else [])]
    if len(typed) > 1 and typed[0] in COMMANDS and COMMANDS[typed[0]].composed:
        from diffgen.cli.recipe_choice import completed

        # Hydra's completion knows a program and its overrides, but no commands and no recipes.
        os.environ["COMP_LINE"] = " ".join([program, *completed(typed[0], typed[1:])])
        return run(COMMANDS[typed[0]], ["-sc", *words])
    if len(typed) < 2:
        print(" ".join(name for name in COMMANDS if name.startswith("".join(typed))))
    return 0
