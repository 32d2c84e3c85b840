"""What went wrong, as one line: Hydra's messages condensed, with the nearest right word."""

import re
from argparse import Namespace

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from diffgen.cli.job import JobFailed
from diffgen.cli.mistaken_line import Line
from diffgen.cli.registry import Command
from diffgen.config.parse import RESOLVING, UnknownKey
from diffgen.errors import UsageError

NO_KEY = re.compile(r"Could not (?:override|append to config|delete from config)\W+([\w./@-]+)")
NO_CHOICE = "Config group override must be a string or a list"


def explain(error: Exception, command: Command, args: Namespace) -> tuple[int, str]:
    """Exit status and line for an error: 2 where another command line would mend it, else 1."""
    match error:
        case UnknownKey(key=key):
            return 2, Line(command.name, args).no_key(key)
        case UsageError():
            return error.status, command.message(error)
        case JobFailed():
            return 1, str(error)
        case MissingConfigException(options=[*options], missing_cfg_file=str(name)):
            return 2, Line(command.name, args).missing(name, options)
        case MissingConfigException(missing_cfg_file=str(name)):
            return 2, f"no config {name!r}"
        case OverrideParseException():
            return 2, f"cannot read {error.override!r}: {flat(error.message)}"
        case HydraException() | OmegaConfBaseException() | ValueError():
            return 2, composition(str(error) or str(error.__cause__), command.name, args)
    return 1, f"{type(error).__name__}: {flat(str(error))}"


def flat(message: str) -> str:
    """A message of several lines as one, without Hydra's pointers into the text."""
    lines = (line.strip() for line in message.splitlines())
    return "; ".join(line for line in lines if line and not line.startswith(("See", "^")))


def composition(message: str, command: str, args: Namespace) -> str:
    """The line for a config that cannot be composed."""
    if message.startswith(RESOLVING):
        return message.splitlines()[0].removeprefix(RESOLVING)
    if missing := NO_KEY.match(message):
        return Line(command, args).no_key(missing[1])
    return Line(command, args).no_choice() if message.startswith(NO_CHOICE) else flat(message)
