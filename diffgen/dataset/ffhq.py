"""FFHQ (Karras et al. 2019): 70,000 photographs of faces."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffgen.dataset.decode import Decoder
from diffgen.dataset.gather import gather
from diffgen.dataset.images import Images, Split, check_split
from diffgen.dataset.stores import first_of
from diffgen.dataset.streamed import OnError
from diffgen.files import expanded

SEED = 2019


@dataclass(frozen=True)
class Ffhq:
    """FFHQ, unlabelled, from the folder `root`/ffhq or `root`/ffhq.zip, resized to `size`.

    90 % to train on and 10 % to test, by NumPy's old shuffle of the sorted names with seed 2019:
    the split of NCSNv2. More than `memory_limit` GiB are decoded on access.
    """

    root: str = "data"
    size: int = 256
    on_error: OnError = "fail"
    memory_limit: float = 4.0
    flip: bool = True

    channels: ClassVar[int] = 3

    def split(self, which: Split) -> Images:
        """Images of (3, size, size)."""
        check_split(which)
        root = expanded(self.root)
        store = first_of([root / "ffhq", root / "ffhq.zip"], "ffhq")
        every = store.images()
        order = list(range(len(every)))
        np.random.RandomState(SEED).shuffle(order)
        cut = int(0.9 * len(order))
        names = [every[number] for number in (order[:cut] if which == "train" else order[cut:])]
        decoder, shape = Decoder(3, self.size), (3, self.size, self.size)
        return gather(
            store, names, decoder, shape, "ffhq", self.memory_limit, on_error=self.on_error
        )
