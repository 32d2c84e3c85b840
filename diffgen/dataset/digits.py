"""The 1797 handwritten digits that come with scikit-learn: 8x8, grey, no download."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from sklearn.datasets import load_digits

from diffgen.dataset.images import Images, Split, check_split, in_memory
from diffgen.dataset.random_choices import holdout

HELD_OUT = 0.2


@dataclass(frozen=True)
class Digits:
    """scikit-learn's digits: 1438 to train on and 359 held out, stratified by class and fixed.

    Their 17 ink levels 0..16 become round(255 * level / 16).
    """

    flip: bool = False

    channels: ClassVar[int] = 1

    def split(self, which: Split) -> Images:
        """Images of (1, 8, 8) with labels 0 to 9."""
        check_split(which)
        levels, digits = load_digits(return_X_y=True)
        pixels = torch.from_numpy(levels).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
        labels = torch.from_numpy(digits).long()
        train, test = holdout(len(labels), HELD_OUT, labels)
        chosen = train if which == "train" else test
        return in_memory(pixels[chosen], labels[chosen], tuple("0123456789"), "digits")
