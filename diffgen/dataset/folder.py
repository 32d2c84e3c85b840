"""Any directory or zip of images: photographs, sprites, scans."""

import logging
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from diffgen.dataset.decode import Decoder
from diffgen.dataset.gather import gather, survey
from diffgen.dataset.images import Images, Split, check_split
from diffgen.dataset.labels import Labels, above, find_labels
from diffgen.dataset.random_choices import holdout
from diffgen.dataset.store import Store
from diffgen.dataset.stores import open_store
from diffgen.dataset.streamed import OnError
from diffgen.errors import UsageError

# What the folders are called; where there is no test/, validation images are tested on.
CALLED = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """The files to train on, and those to test on in the folder `within`; [] where none is."""

    train: list[str]
    test: list[str]
    within: str


def split_folders(store: Store) -> Splits:
    """The images of train/ and of test/ or val/, where the first folders are called so; else all.

    Images beside these folders are left out, and those of val/ where there is a test/, too.
    """
    names = store.images()
    start = above(names)[-1]
    parts: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        folder, slash, _ = name.removeprefix(start).partition("/")
        parts[folder if slash else ""].append(name)
    beside = len(parts.pop("", []))
    found = {CALLED.get(folder.casefold(), folder): folder for folder in parts}
    if "train" not in found or len(found) < 2 or set(found) - set(CALLED.values()):
        return Splits(names, [], "")
    test = found.get("test") or found["validation"]
    others = [f"{len(parts[f])} in {f}/" for f in parts if f not in (found["train"], test)]
    unused = ", ".join(others + [f"{beside} beside them"] * bool(beside)) or "none"
    text = "%s holds splits: %s/ to train on, %s/ to test on; images of neither: %s"
    log.info(text, store.path, found["train"], test, unused)
    return Splits(parts[found["train"]], parts[test], f"{start}{test}/")


LARGEST = 16384  # pixels a side


@dataclass(frozen=True)
class Folder:
    """The images below `root`, a directory or a zip, in the order of their names.

    `size` resizes the shorter side and keeps the middle square (without it all files must have
    one size); `channels` converts (without it: grey if all files are, else RGB). `window` holds
    the values of grey files that become black and white. `labels` are taken from sub-folders or
    dataset.json where there are any. The test set is `test_root`'s; without it that of a folder
    test/ (or val/) beside train/; without both `test_fraction` of the images, fixed and
    stratified. Files that cannot be read are an error, or with `on_error` "skip" left out. A
    split of more than `memory_limit` GiB is decoded on access.
    """

    root: str = "data"
    size: int | None = None
    channels: Literal[1, 3, 4] | None = None
    window: tuple[float, float] | None = None
    labels: bool = True
    test_root: str | None = None
    test_fraction: float = 0.1
    on_error: OnError = "fail"
    memory_limit: float = 4.0
    flip: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.test_fraction < 1:
            raise UsageError(f"dataset.test_fraction={self.test_fraction} is not in [0, 1)")
        if self.size is not None and not 1 <= self.size <= LARGEST:
            raise UsageError(f"dataset.size={self.size} is not a number of pixels, 1 to {LARGEST}")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise UsageError(f"dataset.window={list(self.window)} is not [black, white], rising")

    def split(self, which: Split) -> Images:
        """Images of (C, H, W), labelled where `labels` finds any."""
        check_split(which)
        if which == "test" and self.test_root is not None:
            store = open_store(self.test_root)
            return self._test_set(store, Splits([], store.images(), ""))
        store, splits = self._splits
        if which == "test" and splits.test:
            return self._test_set(store, splits)
        names, shape = self._training_files
        labels, classes = self._labels
        if which == "train" and self.test_root is not None:
            open_store(self.test_root)  # fails now, not after the training, where it is missing
        elif which == "train" and splits.test and classes:
            find_labels(store, splits.test, classes, splits.within)
        chosen = torch.arange(len(names))
        if self.test_root is None and not splits.test:
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

    def _test_set(self, store: Store, splits: Splits) -> Images:
        channels, height, width = self._training_files[1]
        names, found = survey(store, splits.test, self.size, channels, self.on_error)
        if found[1:] != (height, width):
            raise UsageError(
                f"the images to test on in {store.path} are {found[2]}x{found[1]}, those to train "
                f"on {width}x{height}",
                "set dataset.size=N",
            )
        classes = self._labels[1]
        labels = find_labels(store, names, classes, splits.within) if classes else (None, ())
        return self._gathered(store, names, found, labels)

    def _gathered(
        self, store: Store, names: list[str], shape: tuple[int, int, int], labels: Labels
    ) -> Images:
        decoder = Decoder(shape[0], self.size, window=self.window)
        name = Path(self.root).absolute().name.removesuffix(".zip")
        return gather(
            store, names, decoder, shape, name, self.memory_limit, *labels, self.on_error
        )

    @cached_property
    def _splits(self) -> tuple[Store, Splits]:
        store = open_store(self.root)
        return store, split_folders(store)

    @cached_property
    def _training_files(self) -> tuple[list[str], tuple[int, int, int]]:
        store, splits = self._splits
        return survey(store, splits.train, self.size, self.channels, self.on_error)

    @cached_property
    def _labels(self) -> Labels:
        return find_labels(self._splits[0], self._training_files[0]) if self.labels else (None, ())
