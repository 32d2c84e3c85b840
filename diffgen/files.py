"""Files that are written whole or not at all, and the hash of what they hold."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from diffgen.errors import UsageError


class WriteError(UsageError, OSError):
    """A file that cannot be written: `cannot write PATH (reason)`, in one line."""

    def __init__(self, path: Path, error: OSError) -> None:
        reason = str(error.strerror or error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = f"the disk of {path.parent} is full; free space there and go on"
            self.status = 1
        super().__init__(f"cannot write {path} ({reason})")


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write(file)` on a new file beside `path`, sync it and rename it to `path`.

    A crash or a full disk leaves the old file or the new one, never a part of it. WriteError
    where the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_of(path, Path.touch) as partial, partial.open("wb") as file:
            try:
                write(file)
                file.flush()
            except RuntimeError:  # torch's own, which does not say what the system said
                file.write(bytes(2**20))
                file.flush()
                raise
            os.fsync(file.fileno())
            os.replace(partial, path)
    except OSError as error:
        raise WriteError(path, error) from error


@contextmanager
def partial_of(path: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """What `make` made beside `path`, to be filled and renamed; else it is gone at the end.

    Its process holds a lock on it, so that a later call knows what the dead have left of `path`,
    on this machine or another one, and removes that.
    """
    remove_leftovers(path.parent, f".{glob.escape(path.name)}.*.partial")
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with ExitStack() as stack:
        stack.callback(_remove, partial)
        while not partial.exists():  # it may be taken for a dead one's before it is locked
            make(partial)
            with suppress(OSError):  # of a file system without locks: nothing is removed there
                stack.enter_context(_locked(partial))
        yield partial


def remove_leftovers(folder: Path, pattern: str = ".*.partial") -> None:
    """Remove what processes that are dead began to write in a folder."""
    for partial in folder.glob(pattern):
        with suppress(OSError), _locked(partial, fcntl.LOCK_NB):  # held by a living one, or gone
            _remove(partial)


@contextmanager
def _locked(path: Path, wait: int = 0) -> Iterator[None]:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | wait)
        yield
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """As `write_atomically`, of a text in UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def can_write(folder: Path) -> bool:
    """Whether files can be made in a folder; WriteError where its disk is full."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return False
        raise WriteError(folder / "file", error) from error


def place(source: Path, target: Path, leave: Set[str] = frozenset()) -> None:
    """Let a folder hold the files of another one, too, but hidden ones and those to `leave`.

    They are linked, so that they take no room; or copied, where a file system knows no links.
    """
    for path in source.rglob("*"):
        name = path.relative_to(source)
        if path.is_file() and not leave & set(name.parts) and not path.name.startswith("."):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            _place(path.resolve(), target / name)


def _place(path: Path, new: Path) -> None:
    for link in (os.link, os.symlink, shutil.copyfile):
        try:
            new.unlink(missing_ok=True)
            link(path, new)
            return
        except OSError as error:
            failed = error
    raise WriteError(new, failed)


def expanded(path: str | Path) -> Path:
    """The path with ~ as the home folder, or as one of temporary files where no home is known.

    A container's user may have no passwd entry, and a cache must lie somewhere.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"home-{os.getuid()}" / str(path).lstrip("~/")


def sha256(parts: Iterable[str | bytes | Tensor]) -> str:
    """SHA-256 (hex) of the parts one after another: text as UTF-8, tensors as their bytes."""
    digest = hashlib.sha256()
    for part in list(parts):
        digest.update(_bytes(part))
    return digest.hexdigest()


def sha256_of_json(data: Any) -> str:
    """SHA-256 (hex) of plain data, written as JSON with sorted keys."""
    return sha256([json.dumps(data, sort_keys=True)])


def _bytes(part: str | bytes | Tensor) -> bytes | memoryview:
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, bytes):
        return part
    flat = part.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
