"""A command line as a person types it, brought into the form that Hydra's parser takes."""

import re
from argparse import Namespace
from pathlib import Path

from hydra._internal.utils import get_args_parser

from diffgen.errors import refuse

PLAIN = re.compile(r"[\w./~:+@%-]*")
GRAMMAR = re.compile(r"""['"\[{]|\w+\(.*\)$|.*\$\{""")  # quoted, a list, a call, interpolated


def parse(words: list[str]) -> tuple[Namespace, list[str]]:
    """Hydra's own reading of the words, and the words with the overrides last and paths quoted.

    argparse takes one run of positionals only; here flags may stand anywhere among them.
    """
    parser = get_args_parser()
    parser.error = refuse  # one line in place of argparse's page
    args, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        refuse(f"no flag {unknown[0]!r}; keys are set without dashes, as key=value")
    flags = list(words)
    for override in args.overrides:
        flags.remove(override)
    return args, [*flags, *(quoted(check(o), args.multirun) for o in args.overrides)]


def check(override: str) -> str:
    """The override, if it sets something."""
    key, equals, _ = override.partition("=")
    if not equals and not key.startswith("~"):
        refuse(f"{override!r} sets nothing; write {override}=VALUE")
    return override


def quoted(override: str, multirun: bool) -> str:
    """The override with quotes around a value that Hydra's grammar would take for something else:
    one with an '=' in it, or the path of an existing file with unusual letters."""
    key, equals, value = override.partition("=")
    if not equals or PLAIN.fullmatch(value) or GRAMMAR.match(value):
        return override
    parts = value.split(",") if multirun and not Path(value).exists() else [value]
    return f"{key}={','.join(map(quote, parts))}"


def quote(value: str) -> str:
    if "=" not in value and not Path(value).expanduser().exists():
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
