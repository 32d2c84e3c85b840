"""The labels of a store's images: from its dataset.json or from the names of its sub-folders."""

import json
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from diffgen.dataset.store import Store
from diffgen.errors import UsageError

LISTING = "dataset.json"

Labels = tuple[Tensor | None, tuple[str, ...]]


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
                f"{LISTING} in {store.path} gives {name} the label {number}; {_EXPECTED}"
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
            f"{LISTING} in {store.path} is not readable ({error!r}); {_EXPECTED}"
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


_EXPECTED = 'it should read {"labels": [["path", 3], ...]} with one number from 0 for each image'
