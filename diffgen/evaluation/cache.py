"""Files of the cache: read where they are sound, made by one process where they are not."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from filelock import FileLock

from diffgen.errors import UsageError
from diffgen.files import WriteError, write_atomically

log = logging.getLogger(__name__)
T = TypeVar("T")


class Damaged(Exception):
    """The file is incomplete, or not what was written."""


def found_or_made(path: Path, read: Callable[[], T], make: Callable[[], None]) -> T:
    """What `read` finds in the file, else what it finds when `make` has written it.

    A sound file is read without a lock, so that the cache may be one that cannot be written to.
    Of several processes that need a file at the same time one makes it and the others wait. A file
    for which `read` raises Damaged is made again, with a notice.
    """
    try:
        if path.is_file():
            return read()
    except Damaged:
        pass  # it is told below, by the one process that mends it
    with _locked(path):
        try:
            if path.is_file():
                return read()
        except Damaged as error:
            log.warning("%s is damaged (%s) and is made again", path, error)
        make()
        return read()


def keep(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` write a file of the cache; UsageError with the key to set where it cannot."""
    with _named_key(path):
        write_atomically(path, write)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The lock of a file, which is freed when the process dies."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with _named_key(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _named_key(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error if isinstance(error, WriteError) else WriteError(path, error)
        raise UsageError(f"{reason}; set cache=FOLDER") from error
