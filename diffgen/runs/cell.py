"""Cells of a sweep: one way of sampling one checkpoint, computed once and kept beside its run."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from diffgen.dataset.pixels import by_class, save_sheet
from diffgen.files import sha256_of_json, write_atomically


@dataclass(frozen=True)
class Cell:
    """A folder named after all that its images and figures depend on: its key, plain data."""

    folder: Path

    @classmethod
    def of(cls, run: Path, key: dict[str, Any]) -> "Cell":
        """The cell of a key (commands/sample.py makes it) under the run of its checkpoint."""
        return cls(run / "cells" / sha256_of_json(key)[:16])

    @property
    def row(self) -> dict[str, Any] | None:
        """The row of figures, or None where the cell is not done."""
        path = self.folder / "result.json"
        try:
            return json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def done(self, metrics: Collection[str]) -> bool:
        """Whether it holds its images and, in its row, these metrics."""
        pictures = (self.folder / "samples.npz", self.folder / "samples.png")
        row = self.row if all(path.is_file() for path in pictures) else None
        return row is not None and set(metrics) <= set(row.get("metrics", ()))

    def images(self) -> tuple[Tensor, Tensor | None] | None:
        """Images uint8 (N, C, H, W) and labels (N,) as far as they were made, or None."""
        path = self.folder / "samples.npz"
        try:
            with np.load(path) as arrays:
                pixels = torch.from_numpy(arrays["arr_0"]).permute(0, 3, 1, 2).contiguous()
                labels = torch.from_numpy(arrays["arr_1"]) if "arr_1" in arrays else None
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None
        return pixels, labels

    def keep_images(
        self, images: Tensor, labels: Tensor | None, classes: Sequence[str] = ()
    ) -> None:
        """Write samples.npz (arr_0 uint8 NHWC, arr_1 labels) and a sheet of the first ones.

        With labels it holds their names, too: label k is `classes[k]`.
        """
        arrays: dict[str, Any] = {"arr_0": images.permute(0, 2, 3, 1).contiguous().numpy()}
        if labels is not None:
            arrays |= {"arr_1": labels.numpy(), "classes": np.array(classes, dtype=np.str_)}
        write_atomically(self.folder / "samples.npz", lambda file: np.savez(file, **arrays))
        chosen = list(by_class(images, labels, len(classes), rows=8))
        shown = 0 if labels is None else len(labels[chosen].unique())
        columns = shown if 1 < shown <= 16 else None
        save_sheet(images[chosen], self.folder / "samples.png", columns)

    def keep_row(self, row: dict[str, Any]) -> None:
        """Write result.json, which marks the cell as done."""
        text = json.dumps(row, indent=1, sort_keys=True)
        write_atomically(self.folder / "result.json", lambda file: file.write(text.encode()))
