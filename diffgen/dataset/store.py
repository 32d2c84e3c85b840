"""Where the bytes of image files lie: a directory or a zip, read by name."""

import abc
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from diffgen.errors import UsageError
from diffgen.files import expanded

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm"}


class Store(abc.ABC):
    """Files by name, `a/b.png` with forward slashes; may be pickled and used after a fork."""

    path: Path

    @abc.abstractmethod
    def names(self) -> list[str]:
        """The names of everything inside, sorted."""

    @abc.abstractmethod
    def open(self, name: str) -> BinaryIO:
        """The file of that name, to read."""

    @abc.abstractmethod
    def holds(self, name: str) -> bool:
        """Whether there is a file of that name."""

    @abc.abstractmethod
    def stamp(self, name: str) -> str:
        """What changes when the file does, found without reading it."""

    def images(self) -> list[str]:
        """The names that end like an image's, hidden ones left out, sorted; at least one."""
        found = [name for name in self.names() if _is_image(name)]
        if not found:
            raise UsageError(
                f"no images in {self.path}", "set dataset.root=FOLDER to what holds them"
            )
        return found


class Directory(Store):
    """The files below a directory; links are followed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        walk = os.walk(self.path, followlinks=True)
        return sorted(
            Path(folder, name).relative_to(self.path).as_posix()
            for folder, _, names in walk
            for name in names
        )

    def open(self, name: str) -> BinaryIO:
        return (self.path / name).open("rb")

    def holds(self, name: str) -> bool:
        return (self.path / name).is_file()

    def stamp(self, name: str) -> str:
        status = (self.path / name).stat()
        return f"{status.st_size} {status.st_mtime_ns}"


class Zip(Store):
    """The files in a zip archive, read in place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive, self._process = self._opened(), os.getpid()

    def names(self) -> list[str]:
        return sorted(info.filename for info in self._archive.infolist() if not info.is_dir())

    def open(self, name: str) -> BinaryIO:
        if self._process != os.getpid():  # a forked handle would share its file position
            self._archive, self._process = self._opened(), os.getpid()
        return self._archive.open(name)  # type: ignore[return-value]

    def holds(self, name: str) -> bool:
        return name in self._archive.NameToInfo

    def stamp(self, name: str) -> str:
        info = self._archive.getinfo(name)
        return f"{info.file_size} {info.CRC:08x}"

    def _opened(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise UsageError(f"{self.path} is not a readable zip ({error})") from error

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["path"])


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


def _is_image(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    return not hidden and Path(name).suffix.lower() in SUFFIXES
