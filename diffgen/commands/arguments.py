"""The arguments of the commands that Hydra does not run."""

import argparse
from pathlib import Path
from typing import NoReturn

from diffgen.errors import refuse


class Parser(argparse.ArgumentParser):
    """Reads the words of `diffgen NAME`; a mistake is a UsageError in place of argparse's page."""

    def __init__(self, name: str, about: str | None, epilog: str | None = None) -> None:
        shape = argparse.RawDescriptionHelpFormatter
        super().__init__(f"diffgen {name}", None, about, epilog, formatter_class=shape)

    def error(self, message: str) -> NoReturn:
        refuse(message)

    def add_out(self, default: str) -> None:
        """An optional place that is written to."""
        self.add_argument("out", metavar="OUT", type=Path, nargs="?", help=default)

    def add_trust(self, what: str) -> None:
        """Packages of the user's, of whose classes `what` may be made."""
        self.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help=what)
