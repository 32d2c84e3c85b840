"""Cells of a sweep: one way of sampling one checkpoint, computed once and kept beside its run."""

import json
import logging
import zipfile
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffgen.dataset.pixels import by_class, save_sheet
from diffgen.files import can_write, place, sha256, sha256_of_json, write_atomically, write_text
from diffgen.runs.result_file import read_row, seal_of
from diffgen.runs.torch_file import check_stored

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """A folder named after all that its images and figures depend on: its key, plain data."""

    folder: Path

    @classmethod
    def of(cls, run: Path, key: dict[str, Any], runs: Path) -> "Cell":
        """The cell of a key (commands/sampling_job.py makes it) under the run of its checkpoint.

        Under `runs` where the run may only be read, with what the run's own cell holds.
        """
        name = name_of(key)
        theirs, own = cls(run / "cells" / name), cls(home(run, "cells", runs) / name)
        if own.folder != theirs.folder and theirs.row is not None and own.row is None:
            place(theirs.folder, own.folder)
        return own

    @property
    def row(self) -> dict[str, Any] | None:
        """The row of figures, or None where the cell is not done or its row was changed."""
        path = self.folder / "result.json"
        try:
            return read_row(path, sealed=True)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s counts for nothing: %s", path, error)
            return None

    @property
    def sheet(self) -> Path:
        """The picture of its first images."""
        return self.folder / "samples.png"

    def done(self, metrics: Collection[str]) -> bool:
        """Whether it holds its images and, in its row, these metrics, all as they were written."""
        row = self.row if self.sheet.is_file() and self.images() is not None else None
        return row is not None and set(metrics) <= set(row.get("metrics", ()))

    def images(self) -> tuple[Tensor, Tensor | None] | None:
        """Images uint8 (N, C, H, W) and labels (N,) as far as they were made, or None."""
        path = self.folder / "samples.npz"
        try:
            arrays = self._arrays(path)
        except FileNotFoundError:
            return None
        except Exception as error:  # damaged bytes fail in every possible way
            log.warning("%s counts for nothing: %s", path, error)
            return None
        pixels = torch.from_numpy(arrays["arr_0"]).permute(0, 3, 1, 2).contiguous()
        return pixels, torch.from_numpy(arrays["arr_1"]) if "arr_1" in arrays else None

    def _arrays(self, path: Path) -> dict[str, NDArray[Any]]:
        """The arrays of samples.npz; any exception where they are not as they were written."""
        with zipfile.ZipFile(path) as archive:
            check_stored(archive, path.stat().st_size)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        pixels, labels = arrays["arr_0"], arrays.get("arr_1", np.zeros(0, np.int64))
        seal = str(arrays.pop("seal", ""))
        earlier = ((self.row or {}).get("versions") or {}).get("diffgen") == "0.1.0"
        if seal != self._seal(arrays) and (seal or not earlier):
            raise ValueError("it was changed after it was written")
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or labels.dtype != np.int64:
            raise ValueError("it holds no images")
        return arrays

    def _seal(self, arrays: Mapping[str, NDArray[Any]]) -> str:
        """What tells that these arrays are as they were written, and of this cell."""
        shapes = {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}
        parts = [self.folder.name, json.dumps(shapes, sort_keys=True)]
        return sha256([*parts, *(arrays[name].tobytes() for name in sorted(arrays))])

    def keep_images(
        self, images: Tensor, labels: Tensor | None, classes: Sequence[str] = ()
    ) -> None:
        """Write samples.npz (arr_0 uint8 NHWC, arr_1 labels) and a sheet of the first ones.

        With labels it holds their names, too: label k is `classes[k]`.
        """
        arrays = arrays_of(images, labels, classes)
        arrays["seal"] = np.array(self._seal(arrays))
        write_atomically(self.folder / "samples.npz", lambda file: np.savez(file, **arrays))
        chosen = list(by_class(images, labels, len(classes), rows=8))
        shown = 0 if labels is None else len(labels[chosen].unique())
        columns = shown if 1 < shown <= 16 else None
        save_sheet(images[chosen], self.sheet, columns)

    def tell_drawn(self, key: dict[str, Any]) -> None:
        """Note that this cell holds the images of a key without what measures them."""
        write_text(self._drawn(key), self.folder.name)

    def take_drawn(self, key: dict[str, Any], classes: Sequence[str], leave: Set[str]) -> None:
        """Keep the key's images that another cell of this run has noted by `tell_drawn`.

        Nothing where this cell has images or no other one has them as they were written. `leave`
        names files that are not taken.
        """
        if (self.folder / "samples.npz").exists():
            return
        try:
            other = Cell(self.folder.with_name(Path(self._drawn(key).read_text()).name))
        except (OSError, ValueError):
            return
        row, images = other.row, other.images()
        if row is None or images is None:
            return
        place(other.folder, self.folder, leave={"result.json", "samples.npz", *leave})
        self.keep_row({**row, "metrics": []})
        self.keep_images(*images, classes)

    def _drawn(self, key: dict[str, Any]) -> Path:
        return self.folder.parents[1] / "drawn" / name_of(key)

    def keep_row(self, row: dict[str, Any]) -> None:
        """Write result.json, which marks the cell as done."""
        sealed = {**row, "seal": seal_of(self.folder.name, json.loads(json.dumps(row)))}
        write_text(self.folder / "result.json", json.dumps(sealed, indent=1, sort_keys=True))


def name_of(key: dict[str, Any]) -> str:
    """The 16 hexadecimal digits that a key is known by."""
    return sha256_of_json(key)[:16]


def arrays_of(images: Tensor, labels: Tensor | None, classes: Sequence[str]) -> dict[str, Any]:
    """Images as evaluators read them: arr_0 uint8 NHWC, arr_1 labels, and the classes' names."""
    arrays: dict[str, Any] = {"arr_0": images.permute(0, 2, 3, 1).contiguous().numpy()}
    if labels is not None:
        arrays |= {"arr_1": labels.numpy(), "classes": np.array(classes, dtype=np.str_)}
    return arrays


@cache
def home(run: Path, kind: str, runs: Path) -> Path:
    """The folder for what is kept of a run: `run/kind`, or `runs/kind` if one may only read it."""
    folder = run / kind
    if can_write(folder if folder.is_dir() else run):
        return folder
    log.info(f"{run} may only be read: its {kind} stand in {runs / kind}")
    return runs / kind
