"""Fashion-MNIST (Xiao et al. 2017): ten kinds of clothes and shoes."""

from dataclasses import dataclass
from functools import partial

from torchvision.datasets import FashionMNIST

from diffgen.dataset.images import Images, Split, check_split, in_memory
from diffgen.dataset.vision import fetch

FILES = "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"


@dataclass(frozen=True)
class FashionMnist:
    """Fashion-MNIST: 60,000 grey images of 28x28 to train on, 10,000 to test.

    `root` is laid out as torchvision does it, and filled by it where files are missing.
    """

    root: str = "data"
    flip: bool = False

    def split(self, which: Split) -> Images:
        """Images of (1, 28, 28) with labels 0 to 9."""
        check_split(which)
        found = fetch(
            "fashion_mnist", partial(FashionMNIST, train=which == "train"), self.root, FILES
        )
        return in_memory(
            found.data.unsqueeze(1), found.targets, tuple(found.classes), "fashion_mnist"
        )
