"""CIFAR-10 (Krizhevsky 2009): ten kinds of animals and vehicles."""

from dataclasses import dataclass
from functools import partial

import torch
from torchvision.datasets import CIFAR10

from diffgen.dataset.images import Images, Split, check_split, in_memory
from diffgen.dataset.vision import channels_first, fetch

FILES = "cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}"


@dataclass(frozen=True)
class Cifar10:
    """CIFAR-10: 50,000 colour images of 32x32 to train on, 10,000 to test.

    `root` is laid out as torchvision does it, and filled by it where files are missing.
    """

    root: str = "data"
    flip: bool = True

    def split(self, which: Split) -> Images:
        """Images of (3, 32, 32) with labels 0 to 9."""
        check_split(which)
        found = fetch("cifar10", partial(CIFAR10, train=which == "train"), self.root, FILES)
        return in_memory(
            channels_first(found.data),
            torch.tensor(found.targets),
            tuple(found.classes),
            "cifar10",
        )
