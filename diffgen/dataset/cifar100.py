"""CIFAR-100 (Krizhevsky 2009): a hundred kinds of things, its fine labels."""

from dataclasses import dataclass
from functools import partial

import torch
from torchvision.datasets import CIFAR100

from diffgen.dataset.images import Images, Split, check_split, in_memory
from diffgen.dataset.vision import channels_first, fetch

FILES = "cifar-100-python/{train,test,meta}"


@dataclass(frozen=True)
class Cifar100:
    """CIFAR-100: 50,000 colour images of 32x32 to train on, 10,000 to test.

    `root` is laid out as torchvision does it, and filled by it where files are missing.
    """

    root: str = "data"
    flip: bool = True

    def split(self, which: Split) -> Images:
        """Images of (3, 32, 32) with labels 0 to 99."""
        check_split(which)
        found = fetch("cifar100", partial(CIFAR100, train=which == "train"), self.root, FILES)
        return in_memory(
            channels_first(found.data),
            torch.tensor(found.targets),
            tuple(found.classes),
            "cifar100",
        )
