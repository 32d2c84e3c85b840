"""Data sets read from files at hand, or downloaded once where they are missing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from filelock import FileLock

from diffgen.errors import UsageError
from diffgen.files import expanded

T = TypeVar("T")

_MAY_DOWNLOAD = ContextVar("may_download", default=True)


@contextmanager
def offline() -> Iterator[None]:
    """Within it only files at hand are read; what is missing is a UsageError at once."""
    before = _MAY_DOWNLOAD.set(False)
    try:
        yield
    finally:
        _MAY_DOWNLOAD.reset(before)


def fetch(name: str, make: Callable[..., T], root: str, files: str) -> T:
    """`make(folder, download=...)` from the files at hand or, where that fails, by download.

    One process at a time downloads into a folder. UsageError, naming the expected `files`, where
    they are missing or damaged and the network does not help.
    """
    folder = expanded(root)
    try:
        return make(folder, download=False)
    except Exception as error:  # torchvision has none of its own for a set that is not there
        reason = error
    if _MAY_DOWNLOAD.get():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{name}.lock"):
                return make(folder, download=True)
        except Exception as error:
            reason = error
    short = next(iter(str(reason).splitlines()), "").rstrip(":") or type(reason).__name__
    if not _MAY_DOWNLOAD.get():
        raise UsageError(
            f"{name} is not in {folder.resolve()}, and is not downloaded unasked",
            f"put {files} there, or set dataset.root=FOLDER, where it is read or downloaded",
        ) from reason
    raise UsageError(
        f"{name} can neither be read from {folder.resolve()} nor downloaded ({short})",
        f"put {files} there, or set dataset.root=FOLDER to what holds them",
    ) from reason
