"""The standard streams, whatever state they are in, and a line of complaint."""

import contextlib
import os
import sys

from diffgen.errors import one_line

LONGEST = 1000  # characters of a line of complaint


def prepare() -> None:
    """Opens closed streams on nothing, and lets any text be printed in any encoding.

    A closed stream's number would go to the next file that is opened, a checkpoint perhaps.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (it stays open)
    with contextlib.suppress(AttributeError):  # of a stand-in for the stream
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]


def complain(line: str) -> None:
    """Prints one line on standard error: no control characters, and the ends of a long one."""
    line = one_line(f"diffgen: {line}")
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 3 :]}"
    with contextlib.suppress(OSError):  # of a full disk, or a reader who has gone
        print(line.encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True)
