"""LSUN (Yu et al. 2015): photographs of scenes, one category at a time."""

import importlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, ClassVar, Literal

from diffgen.dataset.decode import Decoder
from diffgen.dataset.gather import gather
from diffgen.dataset.images import Images, Split, check_split
from diffgen.dataset.store import Files, Store
from diffgen.dataset.stores import first_of
from diffgen.dataset.streamed import OnError
from diffgen.errors import UsageError
from diffgen.files import expanded

Category = Literal[
    "bedroom",
    "bridge",
    "church_outdoor",
    "classroom",
    "conference_room",
    "dining_room",
    "kitchen",
    "living_room",
    "restaurant",
    "tower",
]
PART = {"train": "train", "test": "val"}
_LOCK = Lock()


@dataclass(frozen=True)
class Lsun:
    """One category of LSUN, unlabelled; its 300 validation images are the test set.

    Read from `root`/lsun/<category>_train_lmdb as it is published, or from a folder or zip
    <category>_train beside it (and _val). Resized to `size` at the shorter side, middle square
    kept, as by NCSNv2 and DDIM. More than `memory_limit` GiB are decoded on access.
    """

    root: str = "data"
    category: Category = "church_outdoor"
    size: int = 256
    on_error: OnError = "fail"
    memory_limit: float = 4.0
    flip: bool = True

    channels: ClassVar[int] = 3

    def split(self, which: Split) -> Images:
        """Images of (3, size, size)."""
        check_split(which)
        store = _find(expanded(self.root) / "lsun", f"{self.category}_{PART[which]}")
        name, decoder = f"lsun_{self.category}", Decoder(3, self.size)
        shape = (3, self.size, self.size)
        return gather(
            store, store.images(), decoder, shape, name, self.memory_limit, on_error=self.on_error
        )


def _find(folder: Path, part: str) -> Store:
    database = folder / f"{part}_lmdb"
    if database.is_dir():
        return _Lmdb(database)
    return first_of([database, folder / part, folder / f"{part}.zip"], "lsun")


class _Lmdb(Store):
    """The values of an LMDB database by their keys, which need not end like an image's name.

    Opened for each read alone: LMDB forbids a second handle in a process and any use of one after
    a fork, and opening maps a file without reading it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._open = importlib.import_module("lmdb").open
        except ImportError as error:
            raise UsageError(
                f"{path} needs one more package: pip install 'diffgen[lsun]'"
            ) from error

    def files(self) -> Files:
        return Files(self.images(), Counter())

    def images(self) -> list[str]:
        with self._reading() as reading:
            return list(map(os.fsdecode, reading.cursor().iternext(keys=True, values=False)))

    def open(self, name: str) -> BinaryIO:
        with self._reading() as reading:
            return BytesIO(reading.get(os.fsencode(name)))

    def holds(self, name: str) -> bool:
        return name in self.images()

    def stamp(self, name: str) -> str:
        return str((self.path / "data.mdb").stat().st_size)

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        with _LOCK, ExitStack() as stack:
            try:
                options = {"readonly": True, "lock": False, "readahead": False}
                database = stack.enter_context(self._open(str(self.path), **options))
                reading = stack.enter_context(database.begin())
            except Exception as error:  # lmdb.Error, of a module that is not imported here
                raise UsageError(f"{self.path} is not a readable database ({error})") from error
            yield reading
