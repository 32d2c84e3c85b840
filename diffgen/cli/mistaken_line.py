"""A command line that does not compose, and what may have been meant by it."""

import re
import shlex
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from diffgen.cli.argv import quoted, sets_nothing
from diffgen.cli.config_files import config_dir, defaults, folders, searched
from diffgen.cli.help_texts import Explanations
from diffgen.cli.other_words import choice_for, for_number, remedies
from diffgen.cli.registry import COMMANDS
from diffgen.errors import did_you_mean


def no_flag(args: Namespace, command: str) -> str:
    """The line for a flag that Hydra does not have, as other programs do: --batch-size 64."""
    flag, *rest = args.flags
    key, equals, value = flag.lstrip("-").partition("=")
    key = key.replace("-", "_")
    if not equals:
        value = next((word for word in [*rest, *args.loose] if sets_nothing(word)), "true")
    line = Line(command, args)
    right = shown([f"{key}={value}"]) if key in line.words else line.meant(key, value)
    return f"no flag {flag!r}; keys are set without dashes{right or ', as key=value'}"


def no_value(args: Namespace, command: str) -> str:
    """The line for a word without =: a choice, a run, a file, or a key."""
    word, line = args.loose[0], Line(command, args)
    found = [group for group in line.groups - line.others if word in line.about.choices(group)]
    usual = list(defaults(line.about.folders, command))
    if word in line.words:
        right = [f"{word}=VALUE"]
    elif found:
        right = [f"{next((group for group in usual if group in found), min(found))}={word}"]
    elif word != "latest" and not is_path(word):
        return f"{word!r} sets nothing{line.near(word) or '; write KEY=VALUE'}"
    elif "checkpoint" in line.words or is_run(Path(word)):
        right = [f"{'checkpoint' if 'checkpoint' in line.words else 'resume'}={word}"]
    else:
        right = ["dataset=folder", f"dataset.root={word}"]
    return f"{word!r} sets nothing{shown(right)}"


def shown(words: Sequence[str], note: str = "") -> str:
    """Words to type in a shell."""
    return f"; write {shlex.join(words)}{f' ({note})' if note else ''}"


class Line:
    """The overrides of a command line that does not compose, and what may have been meant."""

    def __init__(self, command: str, args: Namespace) -> None:
        self.command, self.args = command, args
        self.name, self.search = args.config_name or command, searched(args)
        self.about = Explanations(folders(args))
        given = [word for word in args.overrides if not sets_nothing(word)]
        self.overrides = OverridesParser.create().parse_overrides(given)
        with self.configs():
            self.groups = set(groups(GlobalHydra.instance().config_loader()))
            own = set(keys(compose(self.name, overrides=self.search)))
            wanted = {o.key_or_group for o in self.overrides} & self.groups
            self.others = wanted - own  # groups that only other commands have
            self.choices = {
                o.key_or_group: choice(o) for o in self.overrides if o.key_or_group in wanted & own
            }
            self.words = sorted({*own, *self.groups} - self.others)
            with suppress(HydraException, ValueError):  # a choice may be the mistake itself
                found = compose(self.name, overrides=[*self.search, *self.choices.values()])
                self.words = sorted({*keys(found), *self.groups} - self.others)

    def configs(self) -> AbstractContextManager[None]:
        return initialize_config_dir(version_base="1.3", config_dir=config_dir())

    def value(self, key: str) -> str:
        """What the line sets a key to, as it was typed."""
        given = (o.input_line or "" for o in self.overrides if o.key_or_group == key)
        value = next(given, "").partition("=")[2]
        return re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] in ("'", '"') else value

    def no_key(self, key: str) -> str:
        """The line for a key that is not there."""
        if key in self.words and self.args.multirun:
            return f"no key {key!r} in some jobs of this sweep; their choices have other keys"
        meant = self.meant(key, self.value(key))
        if key in self.others:
            if meant and is_path(self.value(key)):
                return f"diffgen {self.command} takes no {key}={meant}"
            owners = [name for name in COMMANDS if key in defaults(self.about.folders, name)]
            owner = f"diffgen {' and '.join(owners)}" if owners else "another command"
            return f"diffgen {self.command} takes no {key}=, which belongs to {owner}"
        if key in self.words:
            return f"{key}= takes a choice or no value but its keys'; see --help {key}"
        group, dot, _ = key.partition(".")
        instead = COMMANDS[self.command].instead.get(group) if dot else None
        return f"no key {key!r}{meant or self.near(key) or (f'; {instead}' if instead else '')}"

    def near(self, key: str) -> str:
        """The keys most like one, else those beside it."""
        parent = key.rpartition(".")[0]
        others = [word for word in self.words if not f"{key}.".startswith(f"{word}.")]
        found = did_you_mean(key, others, listed=False)
        beside = [word for word in self.words if parent and word.rpartition(".")[0] == parent]
        return found or (f"; there is {', '.join(beside)}" if beside else "")

    def no_choice(self) -> str:
        """The line for a group that is given something else than a name."""
        for o in self.overrides:
            value = o.value()
            if o.key_or_group in self.groups and not isinstance(value, str | list):
                return self.wrong_choice(o.key_or_group, self.value(o.key_or_group))
        return "a group takes the name of a choice"

    def missing(self, name: str, options: Sequence[str]) -> str:
        """The line for a file of configs that is not there, such as dataset/CIFAR10."""
        above = [group for group in self.groups if name.startswith(f"{group}/")]
        group = max(above, key=len, default="")
        if group.startswith("hydra") or not group:  # or --config-name
            group, _, choice = name.rpartition("/")
            return f"no {group or 'config'} {choice!r}{did_you_mean(choice, options)}"
        return self.wrong_choice(group, name.removeprefix(f"{group}/"))

    def wrong_choice(self, group: str, value: str) -> str:
        """The line for a choice that is not there: a number, a path, or another name."""
        options = self.about.choices(group)
        if set(value.split(",")) <= set(options):
            return f"{group}= takes one choice; -m {group}={value} runs each"
        meant = choice_for(group, value, options)
        words = [f"{group}={meant}"] if meant else []
        if not meant and group == "dataset" and is_path(value):
            words = ["dataset=folder", f"dataset.root={value}"]
        elif not meant:
            words = for_number(group, value)
        right = shown(words) if words else did_you_mean(value, options)
        return f"no {group} {value!r}{right}"

    def meant(self, key: str, value: str) -> str:
        """The first of what another program's word may mean that this command takes, or ""."""
        for words, note in remedies(key, value, self.about.choices):
            if self.composes(words):
                return shown(words, note)
        return ""

    def composes(self, words: list[str]) -> bool:
        changed = {word.partition("=")[0] for word in words}
        kept = [word for group, word in self.choices.items() if group not in changed]
        kept += [quoted(word, multirun=False) for word in words]
        try:
            with self.configs():
                compose(self.name, overrides=[*self.search, *kept])
        except (HydraException, OmegaConfBaseException, ValueError):
            return False
        return True


def choice(override: Override) -> str:
    """The override itself, or the first value of a sweep over it."""
    if not override.is_sweep_override():
        return str(override.input_line)
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


def is_path(value: str) -> bool:
    return "/" in value or "." in value or (value != "" and Path(value).exists())


def is_run(path: Path) -> bool:
    return path.suffix in (".ckpt", ".safetensors") or (path / "checkpoints").is_dir()


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
