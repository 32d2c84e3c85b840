"""Where the bytes of image files lie, read by name: what directories and zips have in common."""

import abc
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from diffgen.errors import UsageError

SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".jp2", ".bmp", ".gif"),
    *(".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm"),
}
LISTING = "dataset.json"
COMPANIONS = {LISTING, "thumbs.db", "desktop.ini"}  # beside images, and not missed among them
LARGEST = 2**30  # bytes that one file may have, and one of an archive unpack to
KINDS = 6  # kinds of file that one line names
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Files:
    """The names of the regular files, and how many of other kinds are left out."""

    names: list[str]
    left_out: Counter[str]


class Store(abc.ABC):
    """Files by name, `a/b.png` with forward slashes; may be pickled and used after a fork."""

    path: Path

    @abc.abstractmethod
    def files(self) -> Files:
        """Everything inside, sorted by name."""

    @abc.abstractmethod
    def open(self, name: str) -> BinaryIO:
        """The file of that name, to read; UsageError for one beyond LARGEST."""

    @abc.abstractmethod
    def holds(self, name: str) -> bool:
        """Whether there is a file of that name."""

    @abc.abstractmethod
    def stamp(self, name: str) -> str:
        """What changes when the file does, found without reading it."""

    def images(self) -> list[str]:
        """The names that end like an image's, hidden ones left out, sorted; at least one.

        The log counts what else is left out.
        """
        files = self.files()
        shown = [name for name in files.names if not _hidden(name)]
        found = [name for name in shown if _suffix(name) in SUFFIXES]
        left_out = files.left_out + Counter(map(_kind, set(shown).difference(found)))
        del left_out[""]
        counts = [f"{count} {kind}" for kind, count in left_out.most_common()]
        listed = ", ".join(counts[:KINDS]) + (", ..." if len(counts) > KINDS else "")
        if not found:
            seen = f" ({listed} left out)" if listed else ""
            raise UsageError(
                f"no images in {self.path}{seen}", "set dataset.root=FOLDER to what holds them"
            )
        if listed:
            log.info("left out of %s: %s", self.path, listed)
        return found


def check_size(name: str, size: int) -> None:
    """UsageError where a file of `size` bytes is too large for a picture."""
    if size > LARGEST:
        raise UsageError(f"{name} has {size} bytes, and a picture at most {LARGEST}")


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _kind(name: str) -> str:
    """How a file that is no image is counted, "" where it is not."""
    if PurePosixPath(name).name.lower() in COMPANIONS:
        return ""
    return _suffix(name) or "without an ending"
