"""Features of a set, in memory or in a file that may be larger than it, read in parts.

The file is one of safetensors, whose header holds the checksum of all tensors beside what they
are the features of.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.evaluation.cache import Damaged
from diffgen.evaluation.features import described
from diffgen.evaluation.frechet import FeatureStats

NUMBERS_AT_ONCE = 2**22  # features held in memory
TYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64}
LARGE = "features"  # the first tensor of the checksum and the last of the file


@dataclass(frozen=True, eq=False)
class InMemory:
    """Features (N, d) float64, a row an image, that are held."""

    whole: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.whole), self.whole.shape[1]

    def parts(self) -> Iterator[Tensor]:
        yield from self.whole.split(max(1, NUMBERS_AT_ONCE // max(1, self.whole.shape[1])))

    def chosen(self, rows: Tensor) -> "InMemory":
        return InMemory(self.whole[rows])


@dataclass(frozen=True, eq=False)
class InFile:
    """Features in an open file from the byte `start` on, of which those at `rows` are taken."""

    file: BinaryIO
    start: int
    dtype: torch.dtype
    total: int
    dim: int
    rows: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.total if self.rows is None else len(self.rows), self.dim

    @cached_property
    def whole(self) -> Tensor:
        return torch.cat(list(self.parts()))

    def parts(self) -> Iterator[Tensor]:
        for low, part in self.raw():
            if self.rows is None:
                yield part.double()
            else:
                inside = (self.rows >= low) & (self.rows < low + len(part))
                yield part[self.rows[inside] - low].double()

    def raw(self) -> Iterator[tuple[int, Tensor]]:
        """The number of a row and those from it on, (n, d) as the file has them."""
        size = self.dim * self.dtype.itemsize
        for rows in torch.arange(self.total).split(max(1, NUMBERS_AT_ONCE // self.dim)):
            low = int(rows[0])
            data = os.pread(self.file.fileno(), len(rows) * size, self.start + low * size)
            if len(data) < len(rows) * size:
                raise UsageError(f"{self.file.name} was cut while it was read", "run it again")
            part = torch.frombuffer(bytearray(data), dtype=self.dtype)
            yield low, part.view(len(rows), self.dim)

    def chosen(self, rows: Tensor) -> "InFile":
        taken = rows if self.rows is None else self.rows[rows]
        return InFile(self.file, self.start, self.dtype, self.total, self.dim, taken)


FeatureRows = InMemory | InFile


def read_features(path: Path) -> tuple[InFile, dict[str, Tensor], dict[str, str]]:
    """The features in a file, its other tensors, and what its header says.

    Damaged where the file cannot be read, its checksum differs, or a feature is not finite.
    """
    try:
        with safe_open(path, "pt") as opened:
            names = set(opened.keys())
            rest = {name: opened.get_tensor(name).clone() for name in names - {LARGE}}
            said = dict(opened.metadata() or {})
        file = path.open("rb")
        features = _in(file)
        digest = hashlib.sha256(_title(features.dtype, *features.shape))
        for _, part in features.raw():
            digest.update(part.numpy().data)
            if not bool(part.isfinite().all()):
                raise Damaged("its numbers are not finite")
    except (SafetensorError, UsageError, OSError, LookupError, TypeError, ValueError) as error:
        raise Damaged(str(error)) from error
    if not all(bool(tensor.isfinite().all()) for tensor in rest.values()):
        raise Damaged("its numbers are not finite")
    if said.pop("checksum", None) != _checksum(digest, rest):
        raise Damaged("its checksum differs")
    return features, rest, said


class Inexact(Exception):
    """Features that the type of the file cannot hold."""


def write_features(
    file: BinaryIO,
    parts: Iterable[Tensor],
    shape: tuple[int, int],
    dtype: torch.dtype,
    labels: Tensor | None,
    said: Mapping[str, str],
) -> None:
    """Write features (N, d) float64 that come in parts, their sums and labels; none is kept.

    said: what the header says. Inexact where a feature is none of `dtype`.
    """
    count, dim = shape
    sums = FeatureStats(torch.zeros(dim).double(), torch.zeros(dim, dim).double(), count)
    file.write(_header(_beside(sums, labels), shape, dtype, {**said, "checksum": "0" * 64}))
    start = file.seek(sum(tensor.nbytes for tensor in _beside(sums, labels).values()), 1)
    digest = hashlib.sha256(_title(dtype, *shape))

    def written() -> Iterator[Tensor]:
        for part in parts:
            kept = part.to(dtype)
            if not torch.equal(kept.double(), part):
                raise Inexact
            data = kept.contiguous().numpy().data
            digest.update(data)
            file.write(data)
            yield part

    sums = FeatureStats.over(written())
    if file.tell() != start + count * dim * dtype.itemsize:
        raise ValueError(f"features are not {shape}")
    rest = _beside(sums, labels)
    file.seek(0)
    file.write(_header(rest, shape, dtype, {**said, "checksum": _checksum(digest, rest)}))
    for tensor in rest.values():
        file.write(tensor.contiguous().numpy().data)


def _beside(sums: FeatureStats, labels: Tensor | None) -> dict[str, Tensor]:
    rest = {"total": sums.total, "second": sums.second}
    return rest if labels is None else {**rest, "labels": labels}


def _header(
    rest: Mapping[str, Tensor], shape: tuple[int, int], dtype: torch.dtype, said: Mapping[str, str]
) -> bytes:
    """The front of the file: the number of bytes of a JSON object, and that object."""
    sizes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in rest.items()}
    names, at = {dtype: name for name, dtype in TYPES.items()}, 0
    header: dict[str, Any] = {"__metadata__": dict(said)}
    for name, (kind, size) in {**sizes, LARGE: (dtype, shape)}.items():
        end = at + kind.itemsize * torch.Size(size).numel()
        header[name] = {"dtype": names[kind], "shape": size, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _in(file: BinaryIO) -> InFile:
    """The features in a file that safetensors takes for one of its own."""
    size = int.from_bytes(file.read(8), "little")
    said = json.loads(file.read(size))[LARGE]
    count, dim = said["shape"]
    return InFile(file, 8 + size + said["data_offsets"][0], TYPES[said["dtype"]], count, dim)


def _title(dtype: torch.dtype, count: int, dim: int) -> bytes:
    return f"{LARGE} {dtype} {(count, dim)}".encode()


def _checksum(digest: Any, rest: Mapping[str, Tensor]) -> str:
    """The SHA-256 of all tensors, `digest` that of the features (see `features.described`)."""
    digest = digest.copy()
    for part in described(rest):
        digest.update(part.encode() if isinstance(part, str) else part.numpy().tobytes())
    return digest.hexdigest()
