"""What `diffgen COMMAND --help` prints: the choices and the keys of this command, explained."""

import textwrap
from argparse import Namespace
from collections.abc import Iterator

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from diffgen.cli.config_files import config_dir, folders, searched
from diffgen.cli.help_texts import Explanations
from diffgen.cli.registry import Command
from diffgen.errors import UsageError, did_you_mean

WIDTH = 99
# Packages whose keys stand on pages of their own.
ROOMS = (
    *("dataset", "schedule", "network", "sampler", "task", "features", "logger"),
    "preview.sampler",
)
MOST = 16  # choices of a group on the first page

FIRST = """\
diffgen {name}: {summary}

usage: diffgen {name} [GROUP=CHOICE ...] [KEY=VALUE ...] [FLAGS]

groups and their choices, [with the one made]:
{groups}

keys, with their values:
{keys}

more:
  --help GROUP      the choices of a group and its keys, such as --help sampler
  --help all        every choice and every key
  -m, --multirun    a sweep: k=a,b runs once for each value, over all combinations
  --cfg job         print the config and do nothing; --resolve fills its references in
  --config-dir DIR  a folder with further choices
  --hydra-help      the flags of Hydra, on which this is built
"""
PAGE = """\
diffgen {name} {group}=CHOICE

{choices}

keys, with their values:
{keys}
"""


def text(command: Command, args: Namespace) -> str:
    """The help of a command, or of a group of it, for the choices on its line."""
    shown = Shown(command, args)
    pages = [topic for topic in args.topics if topic != "all"]
    if pages:
        return "\n".join(map(shown.page, pages))
    every = "all" in args.topics
    hidden = () if every else ROOMS
    return FIRST.format(
        name=command.name,
        summary=command.summary,
        groups="\n".join(shown.row(group, every) for group in sorted(shown.made)),
        keys="\n".join(shown.keys(hidden=hidden)),
    )


class Shown:
    """The composed config of a command line, and what there is to say about it."""

    def __init__(self, command: Command, args: Namespace) -> None:
        self.name = args.config_name or command.name
        self.about = Explanations(folders(args))
        with initialize_config_dir(version_base="1.3", config_dir=config_dir()):
            overrides = [*searched(args), *args.overrides]
            self.config = compose(self.name, overrides=overrides, return_hydra_config=True)
        chosen = self.config.hydra.runtime.choices.items()
        # package of the config -> its file
        self.files = {
            key.rpartition("@")[2]: f"{key.partition('@')[0]}/{choice}"
            for key, choice in chosen
            if not key.startswith("hydra/")
        }
        self.made = {k: v.partition("/")[2] for k, v in self.files.items() if "." not in k}

    def row(self, group: str, every: bool) -> str:
        """A group with its choices on one line, or with each on its own."""
        if every:
            return f"  {group}\n{self.choices(group)}"
        names = [n for n in self.about.choices(group) if not self.about.is_preset(group, n)]
        others = len(self.about.choices(group)) - len(names)
        listed = ", ".join(names) if len(names) <= MOST else f"{len(names)} of them"
        more = f" and {others} presets" if others > 1 else " and a preset" * others
        line = f"  {group:<11} {listed}{more}  [{self.made[group]}]"
        return textwrap.fill(line, WIDTH, subsequent_indent=" " * 14)

    def page(self, group: str) -> str:
        """A group's choices and the keys of the one made."""
        if group not in self.made and group not in self.config:
            known = [*self.made, "all"]
            raise UsageError(f"no group {group!r}{did_you_mean(group, known)}")
        keys = "\n".join(self.keys(within=group)) or "  none"
        if group not in self.made:
            return f"diffgen {self.name} {group}\n\nkeys, with their values:\n{keys}\n"
        return PAGE.format(name=self.name, group=group, choices=self.choices(group), keys=keys)

    def choices(self, group: str) -> str:
        """A line for each choice of a group, the one made in brackets."""
        names = self.about.choices(group)
        width = max(map(len, names)) + 2
        lines = []
        for name in names:
            label = f"[{name}]" if name == self.made[group] else f" {name} "
            line = f"  {label:<{width}}  {self.about.choice(group, name)}"
            lines.append(textwrap.fill(line, WIDTH, subsequent_indent=" " * (width + 4)))
        return "\n".join(lines)

    def keys(self, hidden: tuple[str, ...] = (), within: str = "") -> Iterator[str]:
        """A line for each key: its value and what it is."""
        for key, value in leaves(self.config):
            inside = [package for package in hidden if key.startswith(f"{package}.")]
            if key.startswith("hydra.") or key.endswith(".name") or inside:
                continue
            if within and not key.startswith(f"{within}."):
                continue
            line = f"  {f'{key}={value}':<28}  {self.explained(key)}".rstrip()
            yield textwrap.fill(line, WIDTH, subsequent_indent=" " * 32)

    def explained(self, key: str) -> str:
        """What a key is, from the file of its group, of the model or of the command."""
        if key in self.made:  # a group that sets nothing
            return self.about.choice(key, self.made[key])
        for package, file in sorted(self.files.items(), key=lambda item: -len(item[0])):
            if key.startswith(f"{package}."):
                found = self.about.key(file, key.removeprefix(f"{package}."))
                return found or self.about.key(file, key)  # of those packaged at the root
        return self.about.key(self.name, key)


def leaves(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key that holds no further ones, with dots, and its value as it is typed."""
    for name in config:
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none() and len(node):
            if f"{prefix}{name}" != "hydra":
                yield from leaves(node, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", typed(config, str(name))


def typed(config: DictConfig, name: str) -> str:
    """A value as it stands on a command line."""
    try:
        value = config[name]
    except MissingMandatoryValue:
        return "???"
    except OmegaConfBaseException:  # an interpolation that leads nowhere yet
        value = str(config._get_node(name))
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    line = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return line.removesuffix("...").strip()
