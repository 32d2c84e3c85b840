"""What `diffgen COMMAND --help` prints: the choices and the keys of this command alone."""

import textwrap
from argparse import Namespace

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from diffgen.cli.config_files import config_dir, searched
from diffgen.cli.registry import Command

TEXT = """\
diffgen {name}: {summary}

usage: diffgen {name} [GROUP=CHOICE ...] [KEY=VALUE ...] [FLAGS]

groups and their choices:
{groups}

keys and their values, with the choices made:
{keys}

flags:
  -m, --multirun    a sweep: k=a,b runs once for each value, over all combinations
  --cfg job         print the config and do nothing; --resolve fills its references in
  --config-dir DIR  a folder with further choices
  --hydra-help      the flags of Hydra, which this is built on
"""


def text(command: Command, args: Namespace) -> str:
    """The help of a command, for the choices on its line."""
    overrides = [*searched(args), *args.overrides]
    with initialize_config_dir(version_base="1.3", config_dir=config_dir()):
        name = args.config_name or command.name
        config = compose(name, overrides=overrides, return_hydra_config=True)
        made = {path.split("@")[0]: one for path, one in config.hydra.runtime.choices.items()}
        rows = [row(group, made[group]) for group in sorted(made) if is_offered(group)]
    keys = {key: config._get_node(key) for key in config if key != "hydra"}
    body = OmegaConf.to_yaml(DictConfig(keys)).strip()
    return TEXT.format(
        name=command.name,
        summary=command.summary,
        groups="\n".join(rows),
        keys=textwrap.indent(body, "  "),
    )


def is_offered(group: str) -> bool:
    """Hydra's own groups have their own help."""
    return not group.startswith("hydra/")


def row(group: str, made: str) -> str:
    """One group with its choices and, in brackets, the one that is made."""
    loader = GlobalHydra.instance().config_loader()
    choices = ", ".join(loader.get_group_options(group, ObjectType.CONFIG))
    line = f"  {group:<11} {choices}  [{made.rpartition('/')[2]}]"
    return textwrap.fill(line, 99, subsequent_indent=" " * 14)
