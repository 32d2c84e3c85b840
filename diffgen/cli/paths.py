"""Where the files of this package stand."""

from argparse import Namespace
from pathlib import Path

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
    return [f"hydra.searchpath=[{args.config_dir!r}]"] if args.config_dir else []
