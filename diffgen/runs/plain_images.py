"""A cell's images as other programs read them: a folder of PNG files, or an .npz."""

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from diffgen.dataset.store import LISTING
from diffgen.errors import UsageError
from diffgen.files import WriteError, can_write, expanded, write_atomically, write_text
from diffgen.runs.cell import Cell, arrays_of

MARK = "diffgen.json"  # in a folder of images: which ones they are (`cell.name_of`), and how many
REMEDY = "name another place, or remove it"


@dataclass(frozen=True)
class PngFolder:
    """000000.png, 000001.png, ... in a folder, their labels in dataset.json as EDM has it."""

    path: Path

    def check(self, drawn: str | None = None) -> None:
        """UsageError where the folder holds anything but the images called `drawn`.

        None for images that are not known yet: anything that another program wrote.
        """
        if not self.path.exists():
            _check_place(self.path)
            return
        if not self.path.is_dir():
            raise UsageError(f"out={self.path} is a file, and format=png makes a folder")
        names = {name for name in os.listdir(self.path) if not name.startswith(".")}
        mark = self._mark()
        ours = {MARK, LISTING, *(_name(k) for k in range(mark.get("images", 0)))}
        if others := sorted(names - ours if mark else names):
            raise UsageError(f"out={self.path} holds other files, as {others[0]}: {REMEDY}")
        if mark and drawn not in (None, mark["drawn"]):
            raise UsageError(f"out={self.path} holds the images of other settings: {REMEDY}")

    def write(self, cell: Cell, drawn: str, classes: Sequence[str]) -> None:
        """Write the files that are missing; all of them where an earlier call was cut off.

        dataset.json has the numbers of classes, or the names where these are numbers.
        """
        self.check(drawn)
        images, labels = _held(cell)
        mark: dict[str, Any] = {"drawn": drawn, "images": len(images), "classes": list(classes)}
        done = self._mark().get("done", False)
        self._put(MARK, {**mark, "done": done, "row": cell.row})
        for number, image in enumerate(images):
            path = self.path / _name(number)
            if not done or not path.is_file():
                _write(path, image)
        if labels is not None:
            as_numbers = bool(classes) and all(name.isdecimal() for name in classes)
            numbers = [int(name) for name in classes] if as_numbers else range(len(classes))
            pairs = [[_name(k), numbers[label]] for k, label in enumerate(labels.tolist())]
            self._put(LISTING, {"labels": pairs})
        self._put(MARK, {**mark, "done": True, "row": cell.row})

    def _mark(self) -> dict[str, Any]:
        try:
            found = json.loads((self.path / MARK).read_text())
            return {**found, "drawn": str(found["drawn"]), "images": int(found["images"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _put(self, name: str, data: Any) -> None:
        write_text(self.path / name, json.dumps(data))


@dataclass(frozen=True)
class Npz:
    """A file of arr_0, uint8 (N, H, W, 3), and arr_1, labels (N,), as ADM's evaluator reads.

    Grey images have three equal channels there: evaluators read no other number.
    """

    path: Path

    def check(self, drawn: str | None = None) -> None:
        """As that of a folder, for the file."""
        if not self.path.exists():
            _check_place(self.path.parent)
            return
        held = self._drawn() if self.path.is_file() else None  # to read a pipe is to wait
        if held is None:
            raise UsageError(f"out={self.path} is something else: {REMEDY}")
        if drawn not in (None, held):
            raise UsageError(f"out={self.path} holds the images of other settings: {REMEDY}")

    def write(self, cell: Cell, drawn: str, classes: Sequence[str]) -> None:
        """Write the file unless it is there."""
        self.check(drawn)
        if self.path.exists():
            return
        images, labels = _held(cell)
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        arrays = {**arrays_of(images, labels, classes), "drawn": np.array(drawn)}
        write_atomically(self.path, lambda file: np.savez(file, **arrays))

    def _drawn(self) -> str | None:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                return str(file["drawn"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


def plain_images(out: str, form: str) -> PngFolder | Npz:
    """What `out=` and `format=` name; a file gets the ending .npz."""
    if not out:
        raise UsageError("out= names no place; leave it out, or give a folder or a file")
    path = expanded(out)
    if form == "png":
        return PngFolder(path)
    return Npz(path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz"))


def _check_place(folder: Path) -> None:
    """UsageError where no folder can be made there, or nothing in it."""
    above = next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))
    if not above.is_dir():
        raise UsageError(f"out={folder} cannot be made: {above} is a file")
    if not can_write(above):
        raise UsageError(f"out={folder} cannot be made: {above} may only be read")


def _held(cell: Cell) -> tuple[Tensor, Tensor | None]:
    found = cell.images()
    if found is None:
        raise UsageError(f"{cell.folder} holds no images")
    return found


def _name(number: int) -> str:
    return f"{number:06}.png"


def _write(path: Path, image: Tensor) -> None:
    """As save_png, but it does not wait for the disk: the mark says what is whole."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(partial, "png")
        os.replace(partial, path)
    except OSError as error:
        raise WriteError(path, error) from error
