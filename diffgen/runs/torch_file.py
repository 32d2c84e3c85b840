"""Files of torch.save read as data, in memory and time that their own size bounds.

torch.load(weights_only=True) runs nothing that a file says, but a file of 300 kB may have it
allocate any number of bytes, inflate members, or nest lists so that whoever walks through them
never ends. Here a file holds numbers, texts, lists, dicts and dense tensors, whose total is at
most a few times the file's size, or it is refused, before torch, which is slow, is imported.
"""

import math
import os
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from diffgen.runs.plain_pickle import Bounded, Refused, Storage, Unpickler, View, reading

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = object

VALUES = 300_000  # with those of shared lists counted each time
DEPTH = 64

LEGACY = 0x1950A86A20F9469CFC6C  # opens a file of torch before 1.6


def read(path: Path, numbers: bool | None = True) -> Any:
    """What torch.save wrote; UsageError where it is damaged, code or too much for its size.

    Without `numbers` the tensors are on the meta device: names and shapes, found at once. None
    leaves Views in their place and does without torch.
    """
    with reading(path, "file of torch.save"), path.open("rb") as file:
        size, zipped = path.stat().st_size, file.read(4) == b"PK\x03\x04"
        file.seek(0)
        return _read_zip(file, size, numbers) if zipped else _read_legacy(file, size, numbers)


def check_stored(archive: zipfile.ZipFile, size: int) -> None:
    """An exception where members of an archive of `size` bytes unpack to more than it holds."""
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise Refused("is not read: it is compressed, which its own program never does")
    if sum(member.file_size for member in members) > size:
        raise Refused("is not read: it unpacks to more than its own size")


class _Filling:
    """Plain data with tensors in place of views, as long as all of it stays within bounds."""

    def __init__(self, storage: Callable[[Storage], Tensor | None], size: int) -> None:
        self.storage, self.room = storage, 4 * size + 2**20
        self.values = VALUES
        self.tensors: dict[View, Tensor | View] = {}

    def fill(self, value: Any, depth: int = 0) -> Any:
        """The value; a list that is shared is walked through each time it occurs."""
        self.values -= 1
        if self.values < 0 or depth > DEPTH:
            self.refuse(f"nests its values deeper than {DEPTH}, or has more than {VALUES:,}")
        if isinstance(value, dict):
            return {self.fill(k): self.fill(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.fill(v, depth + 1) for v in value)
        if isinstance(value, View):
            return self.tensor(value)
        if isinstance(value, str):
            self.take(len(value))
        elif isinstance(value, int) and value.bit_length() > 64:
            raise ValueError
        elif value is not None and not isinstance(value, int | float):
            raise TypeError
        return value

    def tensor(self, view: View) -> Tensor | View:
        self.take(math.prod(view.size) * view.storage.dtype.itemsize)
        if view not in self.tensors:
            whole = self.storage(view.storage)
            part = view.size, view.stride, view.offset
            self.tensors[view] = view if whole is None else whole.as_strided(*part)
        return self.tensors[view]

    def take(self, count: int) -> None:
        self.room -= count
        if self.room < 0:
            self.refuse("unpacks to several times its own size")

    def refuse(self, why: str) -> NoReturn:
        raise Refused(f"is not read: it {why}")


def _read_zip(file: BinaryIO, size: int, numbers: bool | None) -> Any:
    with zipfile.ZipFile(file) as archive:
        check_stored(archive, size)
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        root = names[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in archive.NameToInfo and archive.read(order) != b"little":
            raise ValueError
        data = Unpickler(Bounded(archive.open(names[0]))).load()
        found: dict[Storage, Tensor] = {}

        def storage(wanted: Storage) -> Tensor | None:
            if wanted not in found:
                info = archive.getinfo(f"{root}data/{wanted.key}")
                if info.file_size != wanted.count * wanted.dtype.itemsize:
                    raise ValueError
                if not numbers:
                    return None if numbers is None else _outline(wanted)
                with archive.open(info) as member:
                    found[wanted] = _numbers(member, wanted)
            return found[wanted]

        return _Filling(storage, size).fill(data)


def _read_legacy(file: BinaryIO, size: int, numbers: bool | None) -> Any:
    """The layout before torch 1.6: five pickles, then the numbers of each storage."""
    bounded = Bounded(file)
    magic, protocol, system = (Unpickler(bounded).load() for _ in range(3))
    if magic != LEGACY or protocol != 1001 or not system["little_endian"]:
        raise ValueError
    unpickler = Unpickler(bounded)
    data = unpickler.load()
    storages = {storage.key: storage for storage in unpickler.storages}
    found: dict[Storage, Tensor | None] = {}
    for key in Unpickler(bounded).load():
        storage = storages[key]
        count = int.from_bytes(file.read(8), "little")
        if count != storage.count or count * storage.dtype.itemsize > size:
            raise ValueError
        found[storage] = None if numbers is None else _numbers(file, storage)
        if numbers is None:
            file.seek(count * storage.dtype.itemsize, os.SEEK_CUR)
    return _Filling(found.__getitem__, size).fill(data)


def read_storage(data: bytes) -> Tensor:
    """The numbers (n,) of one storage that torch.save wrote into bytes, as pickled tensors are.

    Refused, or any other exception, where they are damaged or something else.
    """
    file = BytesIO(data)
    bounded = Bounded(file)
    magic, protocol, system = (Unpickler(bounded).load() for _ in range(3))
    if magic != LEGACY or protocol != 1001 or not system["little_endian"]:
        raise ValueError
    storage = Unpickler(bounded).load()
    if type(storage) is not Storage or Unpickler(bounded).load() != [storage.key]:
        raise ValueError
    count = int.from_bytes(file.read(8), "little")
    if count != storage.count or count * storage.dtype.itemsize > len(data):
        raise ValueError
    return _numbers(file, storage)


def _numbers(file: Any, storage: Storage) -> Tensor:
    import torch

    numbers = torch.empty(storage.count * storage.dtype.itemsize, dtype=torch.uint8)
    if file.readinto(memoryview(numbers.numpy().data)) != len(numbers):
        raise EOFError
    return numbers.view(getattr(torch, storage.dtype.name))


def _outline(storage: Storage) -> Tensor:
    import torch

    dtype = getattr(torch, storage.dtype.name)
    return torch.empty(storage.count, dtype=dtype, device="meta")
