"""Finished batches of a cell whose images are not all drawn: kept until they are."""

import shutil
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffgen.files import write_atomically
from diffgen.runs.torch_file import check_stored

EVERY = 5  # seconds between two writes: what a kill may lose


@dataclass(frozen=True)
class Drawn:
    """Images uint8 (N, C, H, W) by their numbers (N,), with evaluations and seconds of each."""

    numbers: Tensor
    images: Tensor
    nfe: Tensor
    seconds: Tensor

    def at(self, wanted: Tensor) -> "Drawn":
        """Those of the wanted numbers that there are, each once."""
        found = {int(number): k for k, number in enumerate(self.numbers)}
        rows = [found[int(number)] for number in wanted.unique() if int(number) in found]
        return Drawn(self.numbers[rows], self.images[rows], self.nfe[rows], self.seconds[rows])


def joined(parts: "list[Drawn]") -> Drawn:
    return Drawn(
        *(torch.cat([getattr(part, name) for part in parts]) for name in Drawn.__annotations__)
    )


@dataclass
class DrawnBatches:
    """The folder of a cell's finished batches; each process of a run adds files of its own."""

    folder: Path
    shape: tuple[int, int, int]
    waiting: list[Drawn] = field(default_factory=list)
    written: float = field(default_factory=time.monotonic)

    def read(self) -> Drawn:
        """All that is kept; a damaged file counts for nothing."""
        parts = [part for path in sorted(self.folder.glob("*.npz")) if (part := self._part(path))]
        none = torch.zeros(0, dtype=torch.float64)
        empty = Drawn(none.long(), none.to(torch.uint8).reshape(0, *self.shape), none, none)
        return joined([empty, *parts])

    def add(self, part: Drawn) -> None:
        """Keep a batch, on the disk after a few seconds."""
        self.waiting.append(part)
        if time.monotonic() - self.written > EVERY:
            self.write()

    def write(self) -> None:
        """Put what is waiting on the disk, as one file."""
        if self.waiting:
            part = joined(self.waiting)
            arrays = {name: getattr(part, name).numpy() for name in Drawn.__annotations__}
            name = f"{int(part.numbers[0])}-{int(part.numbers[-1])}.npz"
            write_atomically(self.folder / name, lambda file: np.savez(file, **arrays))
        self.waiting, self.written = [], time.monotonic()

    def remove(self) -> None:
        """Take the folder away, once the images stand elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _part(self, path: Path) -> Drawn | None:
        try:
            with zipfile.ZipFile(path) as archive:
                check_stored(archive, path.stat().st_size)
            with np.load(path, allow_pickle=False) as arrays:
                part = Drawn(**{n: torch.from_numpy(arrays[n]) for n in Drawn.__annotations__})
        except Exception:  # damaged bytes fail in every possible way
            return None
        count = len(part.numbers)
        sound = part.images.shape == (count, *self.shape) and part.images.dtype == torch.uint8
        return part if sound and part.nfe.shape == part.seconds.shape == (count,) else None
