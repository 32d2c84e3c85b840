"""A zip of images, read in place: nothing is unpacked to the disk."""

import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from diffgen.dataset.store import Files, Store, check_size
from diffgen.errors import UsageError

ENCRYPTED = 1  # of a member's flags
REGULAR = (0, stat.S_IFREG)  # 0 where the archive was not made on Unix


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
