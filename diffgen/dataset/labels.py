"""Classes of image files: from a dataset.json, or from the folders that the files lie in."""

import json
import os
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from diffgen.dataset.images import listed
from diffgen.dataset.store import LISTING, Store
from diffgen.dataset.stores import plain
from diffgen.errors import UsageError

EXPECTED = 'it should read {"labels": [["path", 3], ...]} with one number from 0 for each image'
BYTES = 4096  # of a dataset.json, for each image
MOST = 2**63  # a label is less

Labels = tuple[Tensor | None, tuple[str, ...]]  # (N,) int64 and the names of the classes


def find_labels(
    store: Store, names: Sequence[str], classes: tuple[str, ...] = (), within: str = ""
) -> Labels:
    """(labels (N,) int64, class names), or (None, ()) where there are neither.

    A dataset.json as EDM writes it, {"labels": [["path", 3], ...]}, at the root or in a folder
    that holds all images, whose paths it then counts from, comes before sub-folders; its classes
    are called by their number, and "labels": null means none. Only classes with images count, in
    the order of their names, numbers by value. Where `classes` are given (a test set's are its
    training set's), every image must be of one of them, or all lie in `within` itself.
    """
    for folder in above(names):
        if store.holds(f"{folder}{LISTING}"):
            return _numbered(_listed(store, folder, names), store, names, classes)
    return _numbered(_by_folder(names, classes, within), store, names, classes)


def above(names: Sequence[str]) -> list[str]:
    """The folders that hold every file, from the root ("") down, each with its last slash."""
    shared = os.path.commonpath([os.path.dirname(name) for name in names])
    parts = shared.split("/") if shared else []
    return ["", *("/".join(parts[: k + 1]) + "/" for k in range(len(parts)))]


def in_order(names: Sequence[str]) -> list[str]:
    """The names without repetition, sorted, with the numbers in them by value: 2 before 10."""
    return sorted(set(names), key=lambda name: (_pieces(name), name))


def _pieces(name: str) -> list[tuple[int, str]]:
    digits = re.split(r"([0-9]+)", name)
    return [
        (len(part.lstrip("0")), part.lstrip("0")) if k % 2 else (0, part)
        for k, part in enumerate(digits)
    ]


def _numbered(
    found: list[str] | None, store: Store, names: Sequence[str], classes: tuple[str, ...]
) -> Labels:
    if found is None:
        return None, ()
    classes = classes or tuple(in_order(found))
    number = {name: index for index, name in enumerate(classes)}
    for name, each in zip(names, found, strict=True):
        if each not in number:
            of = f"has the class {each}, none of" if each else "lies in no folder of"
            raise UsageError(f"{name} in {store.path} {of} {listed(classes)}")
    return torch.tensor([number[each] for each in found]), classes


def _listed(store: Store, folder: str, names: Sequence[str]) -> list[str] | None:
    listing = _read(store, folder + LISTING, len(names))
    if listing is None:
        return None
    numbers = [listing.get(name.removeprefix(folder)) for name in names]
    for name, number in zip(names, numbers, strict=True):
        if type(number) is not int or not 0 <= number < MOST:
            given = str(number)[:50]
            raise UsageError(
                f"{LISTING} in {store.path} gives {name} the label {given}; {EXPECTED}"
            )
    return [str(number) for number in numbers]


def _read(store: Store, listing: str, images: int) -> dict[str, object] | None:
    most = 2**20 + BYTES * images
    try:
        with store.open(listing) as file:
            text = file.read(most + 1)
        if len(text) > most:
            raise ValueError(f"more than {most} bytes for {images} images")
        pairs = json.loads(text)["labels"]
        return None if pairs is None else {plain(name): number for name, number in pairs}
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise UsageError(
            f"{LISTING} in {store.path} is not readable ({reason}); {EXPECTED}"
        ) from error


def _by_folder(names: Sequence[str], classes: tuple[str, ...], within: str) -> list[str] | None:
    """The first folder in which the names differ, or the one of `classes` that a name lies in.

    None where some image lies in no folder; with `classes`, where all lie in `within` itself.
    """
    folders = [name.removeprefix(within).split("/")[:-1] for name in names]
    if classes:
        known = set(classes)
        found = [next((part for part in parts if part in known), "") for parts in folders]
        return found if any(folders) or not within else None
    depth = len(above([name.removeprefix(within) for name in names])) - 1
    return [parts[depth] for parts in folders] if all(p[depth:] for p in folders) else None
