"""Any directory or zip of images: photographs, sprites, scans."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from diffgen.dataset.decode import Decoder
from diffgen.dataset.gather import Streamed, gather, survey
from diffgen.dataset.holdout import holdout
from diffgen.dataset.images import Images, Split, check_split
from diffgen.dataset.labels import find_labels
from diffgen.dataset.store import Store, open_store
from diffgen.errors import UsageError


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
                f"none of the {len(names)} images in {store.path} is left to {which}; "
                "set dataset.test_root or another dataset.test_fraction"
            )
        picked = [names[number] for number in chosen.tolist()]
        return self._images(
            store, picked, shape, None if labels is None else labels[chosen], classes
        )

    def _test_set(self, store: Store) -> Images:
        _, _, (channels, height, width) = self._files
        names = store.images()
        found = survey(store, names, self.size, channels)
        if found[1:] != (height, width):
            raise UsageError(
                f"the images in {store.path} are {found[2]}x{found[1]}, those to train on "
                f"{width}x{height}; set dataset.size"
            )
        labels, classes = None, self._labels[1]
        if classes:
            labels, classes = find_labels(store, names, classes)
        return self._images(store, names, found, labels, classes)

    def _images(
        self,
        store: Store,
        names: list[str],
        shape: tuple[int, int, int],
        labels: Tensor | None,
        classes: tuple[str, ...],
    ) -> Images:
        decoder = Decoder(shape[0], self.size)
        streamed = Streamed(store, names, decoder, (len(names), *shape))
        return gather(streamed, labels, classes, Path(self.root).stem, self.memory_limit)

    @cached_property
    def _files(self) -> tuple[Store, list[str], tuple[int, int, int]]:
        store = open_store(self.root)
        names = store.images()
        return store, names, survey(store, names, self.size, self.channels)

    @cached_property
    def _labels(self) -> tuple[Tensor | None, tuple[str, ...]]:
        store, names, _ = self._files
        return find_labels(store, names) if self.labels else (None, ())
