"""The files of configs: where they stand, and how Hydra reads them."""

from argparse import Namespace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra._internal import config_loader_impl
from hydra._internal.config_repository import ConfigRepository
from hydra.plugins.config_source import ConfigResult

from diffgen.cli.argv import literal
from diffgen.errors import UsageError


def config_dir() -> str:
    """The folder of the configs: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return str(folder)
    raise UsageError("the configs are missing from this installation; install diffgen again")


def searched(args: Namespace) -> list[str]:
    """The overrides that have configs looked for in the folder of --config-dir, too."""
    return [f"hydra.searchpath=[{literal(args.config_dir)}]"] if args.config_dir else []


def folders(args: Namespace) -> tuple[Path, ...]:
    """Where configs are looked for, in this order."""
    own = (Path(args.config_dir).absolute(),) if args.config_dir else ()
    return (Path(config_dir()), *own)


def find(folders: tuple[Path, ...], name: str) -> Path | None:
    """The file of a config such as `network/unet`."""
    return next((f for folder in folders if (f := folder / f"{name}.yaml").is_file()), None)


@cache
def read(path: Path) -> dict[str, Any]:
    """What a config file states itself."""
    stated = yaml.safe_load(path.read_text())
    return stated if isinstance(stated, dict) else {}


def defaults(folders: tuple[Path, ...], name: str) -> dict[str, str]:
    """The choice of each group in the defaults of a command's config, those it includes too."""
    path = find(folders, name)
    made: dict[str, str] = {}
    for entry in read(path).get("defaults", []) if path else []:
        if isinstance(entry, dict):
            made |= entry
        elif entry != "_self_":
            made = defaults(folders, entry) | made
    return made


class Repository(ConfigRepository):
    """Hydra's configs, where a plain key of a command's own file is not taken for a group.

    Without this, `diffgen sample ema=raw` would be a choice of the group ema of `diffgen train`.
    """

    plain: frozenset[str] = frozenset()

    def load_config(self, config_path: str) -> ConfigResult | None:
        loaded = super().load_config(config_path)
        if loaded is not None and "/" not in config_path:
            keys = (
                str(k) for k in loaded.config if not hasattr(loaded.config._get_node(k), "keys")
            )
            self.plain |= frozenset(keys)
        return loaded

    def group_exists(self, config_path: str) -> bool:
        return config_path not in self.plain and super().group_exists(config_path)


loader: Any = config_loader_impl
loader.ConfigRepository = Repository
