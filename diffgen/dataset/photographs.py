"""Photographs without labels, cut and resized as the papers cut them: CelebA, FFHQ and LSUN."""

import abc
import importlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, ClassVar, Literal, NamedTuple

import numpy as np
from torchvision.datasets import CelebA

from diffgen.dataset.decode import Decoder
from diffgen.dataset.download import fetch
from diffgen.dataset.gather import gather
from diffgen.dataset.images import Images, Split, check_split
from diffgen.dataset.store import Files, Store
from diffgen.dataset.stores import Directory, first_of
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
FACES = "celeba/{img_align_celeba/000001.jpg...,list_eval_partition.txt}"
BOXES = {"ncsn": (19, 39, 159, 179), "ddim": (25, 57, 153, 185)}
PARTITION = {"train": "0", "test": "2"}
FFHQ_SEED = 2019
_LOCK = Lock()


class Chosen(NamedTuple):
    """Files of a store, what the set is called, and the (left, top, right, bottom) to cut out."""

    store: Store
    names: Sequence[str]
    name: str
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Photographs(abc.ABC):
    """Unlabelled colour photographs; more than `memory_limit` GiB are decoded on access."""

    root: str = "data"
    size: int = 256
    on_error: OnError = "fail"
    memory_limit: float = 4.0
    flip: bool = True

    channels: ClassVar[int] = 3

    @abc.abstractmethod
    def files(self, which: Split) -> Chosen:
        """The files of a split."""

    def split(self, which: Split) -> Images:
        """Images of (3, size, size)."""
        check_split(which)
        found, shape = self.files(which), (3, self.size, self.size)
        decoder = Decoder(3, self.size, found.box)
        files = found.store, found.names, decoder, shape, found.name
        return gather(*files, self.memory_limit, on_error=self.on_error)


@dataclass(frozen=True)
class Celeba(Photographs):
    """CelebA (Liu et al. 2015): 162,770 faces to train on, 19,962 to test, 19,867 unused.

    Of the 178x218 pixels `crop` keeps the middle 140x140 (ncsn: both NCSN papers) or the 128x128
    around column 89, row 121 (ddim); then they are resized to `size`. Torchvision downloads them
    where it can (with the extra `celeba`).
    """

    size: int = 64
    crop: Literal["ncsn", "ddim"] = "ddim"

    def files(self, which: Split) -> Chosen:
        folder = fetch("celeba", _at_hand, self.root, FACES)
        listed = (line.split() for line in (folder / "list_eval_partition.txt").open())
        names = [name for name, part in listed if part == PARTITION[which]]
        return Chosen(Directory(folder / "img_align_celeba"), names, "celeba", BOXES[self.crop])


@dataclass(frozen=True)
class Ffhq(Photographs):
    """FFHQ (Karras et al. 2019): 70,000 faces in the folder `root`/ffhq or in `root`/ffhq.zip.

    90 % to train on and 10 % to test, by NumPy's old shuffle of the sorted names with seed 2019:
    the split of NCSNv2. Resized to `size`.
    """

    def files(self, which: Split) -> Chosen:
        root = expanded(self.root)
        store = first_of([root / "ffhq", root / "ffhq.zip"], "ffhq")
        every = store.images()
        order = list(range(len(every)))
        np.random.RandomState(FFHQ_SEED).shuffle(order)
        cut = int(0.9 * len(order))
        names = [every[number] for number in (order[:cut] if which == "train" else order[cut:])]
        return Chosen(store, names, "ffhq")


@dataclass(frozen=True)
class Lsun(Photographs):
    """One category of LSUN (Yu et al. 2015); its 300 validation images are the test set.

    Read from `root`/lsun/<category>_train_lmdb as it is published, or from a folder or zip
    <category>_train beside it (and _val). Resized to `size` at the shorter side, middle square
    kept, as by NCSNv2 and DDIM.
    """

    category: Category = "church_outdoor"

    def files(self, which: Split) -> Chosen:
        part = f"{self.category}_{'train' if which == 'train' else 'val'}"
        folder = expanded(self.root) / "lsun"
        places = [folder / f"{part}_lmdb", folder / part, folder / f"{part}.zip"]
        store = _Lmdb(places[0]) if places[0].is_dir() else first_of(places, "lsun")
        return Chosen(store, store.images(), f"lsun_{self.category}")


def _at_hand(folder: Path, download: bool) -> Path:
    """The folder of the aligned faces; torchvision's own check would ask for five more lists."""
    if download:
        CelebA(folder, "all", download=True)
    found = folder / CelebA.base_folder
    if not (found / "img_align_celeba").is_dir():
        raise FileNotFoundError(found / "img_align_celeba")
    (found / "list_eval_partition.txt").open().close()
    return found


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
