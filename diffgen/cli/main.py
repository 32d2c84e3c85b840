"""The `diffgen` command: its first word picks what runs. Nothing heavy is imported on the way."""

import os
import sys
from collections.abc import Sequence

from diffgen import __version__
from diffgen.cli.registry import COMMANDS, usage
from diffgen.errors import UsageError, did_you_mean


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the run failed, 2 wrong use, 130 Ctrl-C, 141 unread, 143 SIGTERM."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return answer(words)
    except UsageError as error:
        print(f"diffgen: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as in `diffgen train --help | head`
        # Python flushes at its end, and would complain of the same once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def answer(words: list[str]) -> int:
    """Runs one command line, given without the program's name."""
    first, rest = (words[0], words[1:]) if words else ("help", [])
    if first in COMMANDS:
        return COMMANDS[first].run(rest)
    if first in ("-h", "--help", "help"):
        print(usage())
    elif first == "--version":
        print("diffgen", __version__)
    elif first in ("-sc", "--shell-completion"):
        from diffgen.cli.completion import complete

        return complete(rest)
    else:
        raise UsageError(f"no command {first!r}{did_you_mean(first, COMMANDS)}")
    return 0
