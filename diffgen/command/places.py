"""Where the files of this package stand."""

from pathlib import Path

from diffgen.errors import UsageError


def config_dir() -> str:
    """The folder of the configs: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return str(folder)
    raise UsageError("the configs are missing from this installation; install diffgen again")
