"""Files that are written whole or not at all, and the hash of what they hold."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
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
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
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
    finally:
        with suppress(OSError):
            partial.unlink()


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
    for way in (os.link, os.symlink, shutil.copyfile):
        try:
            new.unlink(missing_ok=True)
            way(path, new)
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
