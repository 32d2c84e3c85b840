"""Street View House Numbers (Netzer et al. 2011), the cropped digits."""

from dataclasses import dataclass
from functools import partial

import torch
from torchvision.datasets import SVHN

from diffgen.dataset.images import Images, Split, check_split, in_memory
from diffgen.dataset.vision import fetch

FILES = "{train,test}_32x32.mat"


@dataclass(frozen=True)
class Svhn:
    """SVHN: 73,257 colour images of 32x32 to train on, 26,032 to test; not its extra set.

    `root` is laid out as torchvision does it, and filled by it where files are missing.
    """

    root: str = "data"
    flip: bool = False

    def split(self, which: Split) -> Images:
        """Images of (3, 32, 32) with labels 0 to 9; the digit 0, which the files call 10, is 0."""
        check_split(which)
        found = fetch("svhn", partial(SVHN, split=which), self.root, FILES)
        pixels, labels = torch.from_numpy(found.data), torch.from_numpy(found.labels)
        return in_memory(pixels.contiguous(), labels, tuple("0123456789"), "svhn")
