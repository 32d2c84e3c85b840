"""What went wrong, as one line: Hydra's messages condensed, with the nearest right word."""

import re
from argparse import Namespace
from collections.abc import Iterator

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from diffgen.cli.config_files import config_dir, searched
from diffgen.cli.job import JobFailed
from diffgen.cli.registry import Command
from diffgen.errors import UsageError, did_you_mean

NO_KEY = re.compile(r"Could not (?:override|append to config|delete from config)\W+([\w./@-]+)")


def explain(error: Exception, command: Command, args: Namespace) -> tuple[int, str]:
    """Exit status and line for an error: 2 where another command line would mend it, else 1."""
    match error:
        case UsageError():
            return 2, command.told(error)
        case JobFailed():
            return 1, str(error)
        case MissingConfigException(options=[*options], missing_cfg_file=str(name)):
            group, _, choice = name.rpartition("/")
            return 2, f"no {group} {choice!r}{did_you_mean(choice, options)}"
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
    missing = NO_KEY.match(message)
    if not missing:
        return flat(message)
    key = missing[1]
    words, others = known(command, args)
    if key in others:
        return f"diffgen {command} takes no {key}=, which belongs to another command"
    if key in words:
        return f"no key {key!r} in some jobs of this sweep; their choices have other keys"
    return f"no key {key!r}{did_you_mean(key, words, listed=False)}"


def known(command: str, args: Namespace) -> tuple[list[str], set[str]]:
    """Every group and key of the config that the valid group choices of this line compose, and
    the groups that only other commands have."""
    with initialize_config_dir(version_base="1.3", config_dir=config_dir()):
        loader = GlobalHydra.instance().config_loader()
        found = set(groups(loader))
        name, search = args.config_name or command, searched(args)
        own = set(keys(compose(name, overrides=search)))
        wanted = {o.key_or_group for o in parsed(args.overrides)} & found
        others = wanted - own
        choices = [choice(o) for o in parsed(args.overrides) if o.key_or_group in wanted & own]
        config = compose(name, overrides=[*search, *choices])
    return sorted({*keys(config), *found} - others), others


def parsed(overrides: list[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(overrides)


def choice(override: Override) -> str:
    """The override itself, or the first value of a sweep over it."""
    if not override.is_sweep_override():
        return str(override.input_line)
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


def groups(loader: ConfigLoader, parent: str = "") -> Iterator[str]:
    for name in loader.list_groups(parent):
        path = f"{parent}/{name}" if parent else name
        yield path
        yield from groups(loader, path)


def keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every key of a config, with dots."""
    for name in config:
        yield f"{prefix}{name}"
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            yield from keys(node, f"{prefix}{name}.")
