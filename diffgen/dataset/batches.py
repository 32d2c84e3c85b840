"""Training batches as a function of the seed, the step and the position in the global batch.

Nothing is stored and nothing is drawn in turn, so a resumed run sees what the unbroken one would
have seen, and neither the number of devices nor accumulation changes a batch.
"""

from dataclasses import dataclass, field
from typing import NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from diffgen.dataset.images import Images
from diffgen.dataset.random_choices import coins, permutation
from diffgen.errors import UsageError

ORDER, MIRROR = 0, 1  # what a key's second number stands for


class Batch(TypedDict):
    """The part of a step's global batch that one device works on at once, b images."""

    pixels: Tensor  # uint8 (b, C, H, W)
    label: NotRequired[Tensor]  # int64 (b,), absent when the images are unlabelled
    step: int
    position: Tensor  # int64 (b,), where in the global batch each image stands


@dataclass(eq=False)
class Batches(Dataset[Batch]):
    """The micro-batches of one rank, without end: item k belongs to step k // accumulate.

    The image at `position` of `step` is number n = step * batch_size + position of all that
    training sees, and stands at n % N of epoch n // N, each a permutation of all N images; so
    batches run across the borders of epochs and drop nothing. With `flip` every image is mirrored
    with probability 1/2. `batch_size` counts images of all ranks and micro-batches together;
    UsageError where it cannot be shared out evenly.
    """

    images: Images
    batch_size: int
    seed: int
    accumulate: int = 1
    rank: int = 0
    world_size: int = 1
    flip: bool = False
    _orders: dict[int, NDArray[np.int64]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        size, world, accumulate = self.batch_size, self.world_size, self.accumulate
        if size < 1 or accumulate < 1 or size % (world * accumulate):
            raise UsageError(
                f"trainer.batch_size={size} cannot be shared out evenly among {world} "
                f"device(s) x trainer.accumulate={accumulate}; make it a multiple of their product"
            )

    def __getitem__(self, index: int) -> Batch:
        step, part = divmod(index, self.accumulate)
        share = self.batch_size // (self.world_size * self.accumulate)
        start = (part * self.world_size + self.rank) * share
        position = np.arange(start, start + share)
        chosen = self._images_at(step * self.batch_size + position)
        pixels = self.images.at(chosen)
        if self.flip:
            mirrored = coins(self.batch_size, self.seed, MIRROR, step)[position]
            pixels = _mirrored(pixels, torch.from_numpy(mirrored))
        batch: Batch = {"pixels": pixels, "step": step, "position": torch.from_numpy(position)}
        if self.images.labels is not None:
            batch["label"] = self.images.labels[chosen]
        return batch

    def _images_at(self, number: NDArray[np.int64]) -> Tensor:
        """The indices (b,) of the images that stand at these numbers of the whole training."""
        epoch, index = np.divmod(number, len(self.images))
        chosen = np.empty_like(index)
        for each in range(epoch[0], epoch[-1] + 1):
            chosen[epoch == each] = self._order(each)[index[epoch == each]]
        return torch.from_numpy(chosen)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The permutation of an epoch; the last two are kept, for batches across a border."""
        if epoch not in self._orders:
            while len(self._orders) > 1:
                del self._orders[next(iter(self._orders))]
            self._orders[epoch] = permutation(len(self.images), self.seed, ORDER, epoch)
        return self._orders[epoch]


def _mirrored(pixels: Tensor, which: Tensor) -> Tensor:
    """The images (b, C, H, W), those where `which` (b,) is true mirrored left to right."""
    both = torch.cat([pixels, pixels.flip(-1)])
    rows = torch.arange(len(pixels)) + len(pixels) * which
    return both.index_select(0, rows)  # half the time of torch.where
