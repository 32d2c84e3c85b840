"""Completion in a shell: the first word here, everything after it by Hydra."""

import os

from diffgen.cli.registry import COMMANDS


def complete(words: list[str]) -> int:
    """Answers `diffgen -sc install=SHELL` and the queries of the script which that prints."""
    if not any(word.startswith("query=") for word in words):
        return COMMANDS["train"].run(["-sc", *words])
    program, *typed = split(os.environ.get("COMP_LINE", ""))
    if len(typed) > 1 and typed[0] in COMMANDS and COMMANDS[typed[0]].composed:
        # Hydra's completion knows a program and its overrides, but no commands.
        os.environ["COMP_LINE"] = " ".join([program, *typed[1:]])
        return COMMANDS[typed[0]].run(["-sc", *words])
    if len(typed) < 2:
        print(" ".join(name for name in COMMANDS if name.startswith("".join(typed))))
    return 0


def split(line: str) -> list[str]:
    """The words of a line, the last one empty where the line ends with a space."""
    return [*line.split(), *([""] if line.endswith(" ") or not line else [])]
