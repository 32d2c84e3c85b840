"""MNIST (LeCun et al. 1998): handwritten digits."""

from dataclasses import dataclass
from functools import partial

from torchvision.datasets import MNIST

from diffgen.dataset.images import Images, Split, check_split, in_memory
from diffgen.dataset.vision import fetch

FILES = "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"


@dataclass(frozen=True)
class Mnist:
    """MNIST: 60,000 grey images of 28x28 to train on, 10,000 to test.

    `root` is laid out as torchvision does it, and filled by it where files are missing.
    """

    root: str = "data"
    flip: bool = False

    def split(self, which: Split) -> Images:
        """Images of (1, 28, 28) with labels 0 to 9."""
        check_split(which)
        found = fetch("mnist", partial(MNIST, train=which == "train"), self.root, FILES)
        return in_memory(found.data.unsqueeze(1), found.targets, tuple("0123456789"), "mnist")
