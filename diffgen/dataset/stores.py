"""Directories and zips of images, read in place, and which of them a data set's root names."""

import os
import re
import stat
import zipfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from diffgen.dataset.store import Files, Store, check_size
from diffgen.errors import UsageError
from diffgen.files import expanded

ENCRYPTED = 1  # of a member's flags
REGULAR = (0, stat.S_IFREG)  # 0 where the archive was not made on Unix
# A pipe opened so does not wait for a writer; systems without pipes have no such flag.
AT_ONCE = getattr(os, "O_NONBLOCK", 0)


class Zip(Store):
    """The regular files in a zip archive, read in place, by `plain` names.

    Links, devices and names that lead out of the archive are left out; of two files of one name
    the last counts. UsageError where files are encrypted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()

    def files(self) -> Files:
        return Files(sorted(self._members), self._left_out)

    def open(self, name: str) -> BinaryIO:
        if self._process != os.getpid():  # a forked handle would share its file position
            self._open()
        member = self._members[name]
        check_size(name, member.file_size)  # a member never gives more than it declares
        return self._archive.open(member)  # type: ignore[return-value]

    def holds(self, name: str) -> bool:
        return name in self._members

    def stamp(self, name: str) -> str:
        member = self._members[name]
        return f"{member.file_size} {member.CRC:08x}"

    def _open(self) -> None:
        self._left_out: Counter[str] = Counter()
        try:
            self._archive = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            text = f"{self.path} is neither a folder nor a readable zip ({error})"
            raise UsageError(text, "unpack it, and set dataset.root=FOLDER to it") from error
        self._members = dict(self._regular())
        self._process = os.getpid()

    def _regular(self) -> Iterator[tuple[str, zipfile.ZipInfo]]:
        names: set[str] = set()
        for member in self._archive.infolist():
            name = plain(member.filename)
            if name.endswith("/"):
                continue
            if member.flag_bits & ENCRYPTED:
                raise UsageError(
                    f"{self.path} is encrypted ({name})",
                    "unpack it, and set dataset.root=FOLDER to what it holds",
                )
            if ".." in name.split("/"):
                self._left_out["with names that lead out of the zip"] += 1
            elif stat.S_IFMT(member.external_attr >> 16) not in REGULAR:
                self._left_out["links or devices"] += 1
            else:
                self._left_out["of a name that comes again"] += name in names
                names.add(name)
                yield name, member

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["path"])


def plain(name: str) -> str:
    """A file's name relative to where its list counts from, with forward slashes.

    Archives and lists made on Windows may have backslashes, and some count from a root or a drive.
    """
    path = re.sub(r"^[A-Za-z]:(?=/)", "", name.replace("\\", "/"))
    *folders, last = path.split("/")
    return "/".join([*(part for part in folders if part not in ("", ".")), last])


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
        file = os.fdopen(os.open(self.path / name, os.O_RDONLY | AT_ONCE), "rb")
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
