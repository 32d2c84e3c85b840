"""What a data set's root names: a directory or a zip."""

from collections.abc import Sequence
from pathlib import Path

from diffgen.dataset.archive import Zip
from diffgen.dataset.directory import Directory
from diffgen.dataset.store import Store
from diffgen.errors import UsageError
from diffgen.files import expanded


def open_store(root: str) -> Store:
    """The directory or zip at `root`; UsageError where there is neither."""
    path = expanded(root)
    if path.is_dir():
        return Directory(path)
    if path.is_file():
        return Zip(path)
    raise UsageError(f"no folder or zip of images at {path.resolve()}", "set dataset.root=PATH")


def first_of(candidates: Sequence[Path], name: str) -> Store:
    """The first candidate that exists; UsageError naming all of them where none does."""
    for path in candidates:
        if path.exists():
            return open_store(str(path))
    places = " or ".join(str(path.resolve()) for path in candidates)
    raise UsageError(f"{name} is not there", f"put it at {places}, or set dataset.root=FOLDER")
