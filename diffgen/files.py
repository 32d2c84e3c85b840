"""Files that are written whole or not at all, and the hash of what they hold."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from diffgen.errors import UsageError


class WriteError(UsageError, OSError):
    """A file that cannot be written: `cannot write PATH (reason)`, in one line."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"cannot write {path} ({error.strerror or error})")


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write(file)` on a new file beside `path`, sync it and rename it to `path`.

    A crash or a full disk leaves the old file or the new one, never a part of it. WriteError
    where the folder cannot be written to.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise WriteError(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def expanded(path: str | Path) -> Path:
    """The path with ~ as the home folder, or as one of temporary files where no home is known.

    So for a container's user without a passwd entry, and for a cache above all.
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
