"""A directory of images: links are followed, and every folder is read once."""

import os
import stat
from collections import Counter, deque
from pathlib import Path
from typing import BinaryIO

from diffgen.dataset.store import Files, Store, check_size
from diffgen.errors import UsageError

# A pipe opened so does not wait for a writer; systems without pipes have no such flag.
AT_ONCE = getattr(os, "O_NONBLOCK", 0)


class Directory(Store):
    """The regular files below a directory; links are followed.

    A linked folder that holds this directory or was read under another name is left out, so that
    links cannot go round. Pipes, sockets, devices and broken links are left out, too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> Files:
        names: list[str] = []
        left_out: Counter[str] = Counter()
        seen = {_identity(parent.stat()) for parent in self.path.resolve().parents}
        folders, links = deque([""]), deque[str]()
        while folders or links:  # links last, so that a folder keeps its own name
            prefix = folders.popleft() if folders else links.popleft()
            identity, entries = _read(self.path / prefix)
            if identity in seen:
                left_out["linked folders that are read already"] += 1
                continue
            seen.add(identity)
            for entry in entries:
                name = prefix + entry.name
                kind = _kind(entry)
                if kind == "folder":
                    (links if entry.is_symlink() else folders).append(name + "/")
                elif kind == "file":
                    names.append(name)
                else:
                    left_out[kind] += 1
        return Files(sorted(names), left_out)

    def open(self, name: str) -> BinaryIO:
        file = open(self.path / name, "rb", opener=_at_once)  # noqa: SIM115
        status = os.fstat(file.fileno())
        try:
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{name} is not a regular file")
            check_size(name, status.st_size)
        except UsageError:
            file.close()
            raise
        return file

    def holds(self, name: str) -> bool:
        return (self.path / name).is_file()

    def stamp(self, name: str) -> str:
        status = (self.path / name).stat()
        return f"{status.st_size} {status.st_mtime_ns}"


def _read(folder: Path) -> tuple[tuple[int, int], list[os.DirEntry[str]]]:
    """What tells a folder from all others, and what stands in it."""
    try:
        with os.scandir(folder) as found:
            return _identity(folder.stat()), sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(f"cannot read the folder {folder} ({error.strerror})") from error


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        entry.stat()
    except OSError:
        return "broken links"
    return "pipes, sockets or devices"


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | AT_ONCE)
