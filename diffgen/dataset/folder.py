"""Any directory or zip of images: photographs, sprites, scans."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from diffgen.dataset.decode import Decoder, gather, survey
from diffgen.dataset.images import Images, Split, check_split
from diffgen.dataset.random_choices import holdout
from diffgen.dataset.store import Store, open_store
from diffgen.errors import UsageError

LISTING = "dataset.json"
EXPECTED = 'it should read {"labels": [["path", 3], ...]} with one number from 0 for each image'
Labels = tuple[Tensor | None, tuple[str, ...]]  # (N,) int64 and the names of the classes


@dataclass(frozen=True)
class Folder:
    """The images below `root`, a directory or a zip, in the order of their names.

    `size` resizes the shorter side and keeps the middle square (without it all files must have
    one size); `channels` converts (without it: grey if all files are, else RGB). `labels` are
    taken from sub-folders or dataset.json where there are any. The test set is `test_root`'s or,
    without it, `test_fraction` of the images, fixed and stratified. A split of more than
    `memory_limit` GiB is decoded on access.
    """

    root: str = "data"
    size: int | None = None
    channels: Literal[1, 3, 4] | None = None
    labels: bool = True
    test_root: str | None = None
    test_fraction: float = 0.1
    memory_limit: float = 4.0
    flip: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.test_fraction < 1:
            raise UsageError(f"dataset.test_fraction={self.test_fraction} is not in [0, 1)")
        if self.size is not None and self.size < 1:
            raise UsageError(f"dataset.size={self.size} is not a number of pixels from 1")

    def split(self, which: Split) -> Images:
        """Images of (C, H, W), labelled where `labels` finds any."""
        check_split(which)
        if which == "test" and self.test_root is not None:
            return self._test_set(open_store(self.test_root))
        store, names, shape = self._files
        labels, classes = self._labels
        chosen = torch.arange(len(names))
        if self.test_root is None:
            train, test = holdout(len(names), self.test_fraction, labels)
            chosen = train if which == "train" else test
        if not len(chosen):
            raise UsageError(
                f"none of the {len(names)} images in {store.path} is left to {which}",
                "set dataset.test_root=FOLDER or another dataset.test_fraction",
            )
        names = [names[number] for number in chosen.tolist()]
        found = (None if labels is None else labels[chosen], classes)
        return self._gathered(store, names, shape, found)

    def _test_set(self, store: Store) -> Images:
        _, _, (channels, height, width) = self._files
        names = store.images()
        found = survey(store, names, self.size, channels)
        if found[1:] != (height, width):
            raise UsageError(
                f"the images in {store.path} are {found[2]}x{found[1]}, those to train on "
                f"{width}x{height}",
                "set dataset.size=N",
            )
        classes = self._labels[1]
        labels = find_labels(store, names, classes) if classes else (None, ())
        return self._gathered(store, names, found, labels)

    def _gathered(
        self, store: Store, names: list[str], shape: tuple[int, int, int], labels: Labels
    ) -> Images:
        decoder, name = Decoder(shape[0], self.size), Path(self.root).stem
        return gather(store, names, decoder, shape, name, self.memory_limit, *labels)

    @cached_property
    def _files(self) -> tuple[Store, list[str], tuple[int, int, int]]:
        store = open_store(self.root)
        names = store.images()
        return store, names, survey(store, names, self.size, self.channels)

    @cached_property
    def _labels(self) -> Labels:
        store, names, _ = self._files
        return find_labels(store, names) if self.labels else (None, ())


def find_labels(store: Store, names: Sequence[str], classes: tuple[str, ...] = ()) -> Labels:
    """(labels (N,) int64, class names), or (None, ()) where there are neither.

    A dataset.json as EDM writes it, {"labels": [["path", 3], ...]}, at the root or in the folder
    that holds all images, whose paths it then counts from, comes before sub-folders; its classes
    are called by their number, and "labels": null means none. Where `classes` are given (a test
    set's are its training set's), every image must be of one of them.
    """
    for folder in _above(names):
        if store.holds(f"{folder}{LISTING}"):
            return _listed(store, folder, names, classes)
    return _by_folder(store, names, classes) if classes else _from_folders(names)


def _above(names: Sequence[str]) -> list[str]:
    """The folders that hold every image, from the root ("") down, each with its last slash."""
    shared = os.path.commonpath([os.path.dirname(name) for name in names])
    parts = shared.split("/") if shared else []
    return ["", *("/".join(parts[: k + 1]) + "/" for k in range(len(parts)))]


def _listed(store: Store, folder: str, names: Sequence[str], classes: tuple[str, ...]) -> Labels:
    listing = _read(store, folder + LISTING)
    if listing is None:
        return None, ()
    numbers = [listing.get(name.removeprefix(folder)) for name in names]
    for name, number in zip(names, numbers, strict=True):
        if type(number) is not int or number < 0 or (classes and number >= len(classes)):
            raise UsageError(
                f"{LISTING} in {store.path} gives {name} the label {number}; {EXPECTED}"
            )
    labels = torch.tensor(numbers)
    return labels, classes or tuple(str(number) for number in range(int(labels.max()) + 1))


def _read(store: Store, listing: str) -> dict[str, object] | None:
    try:
        with store.open(listing) as file:
            pairs = json.load(file)["labels"]
        return None if pairs is None else dict(pairs)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{LISTING} in {store.path} is not readable ({error!r}); {EXPECTED}"
        ) from error


def _from_folders(names: Sequence[str]) -> Labels:
    """The first folder in which the names differ; none where some image lies in no folder."""
    depth = len(_above(names)) - 1
    folders = [name.split("/")[depth:-1] for name in names]
    if not all(folders):
        return None, ()
    classes = tuple(sorted({parts[0] for parts in folders}))
    number = _numbered(classes)
    return torch.tensor([number[parts[0]] for parts in folders]), classes


def _by_folder(store: Store, names: Sequence[str], classes: tuple[str, ...]) -> Labels:
    """The folder of each name that is called like one of the classes."""
    number = _numbered(classes)
    labels = []
    for name in names:
        found = [number[part] for part in name.split("/")[:-1] if part in number]
        if not found:
            raise UsageError(f"{name} in {store.path} lies in no folder of {', '.join(classes)}")
        labels.append(found[0])
    return torch.tensor(labels), classes


def _numbered(classes: tuple[str, ...]) -> dict[str, int]:
    return {name: number for number, name in enumerate(classes)}
