"""The training loop's view of the batches: in order, from a step to the last."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from diffgen.dataset.batches import Batch, Batches
from diffgen.errors import UsageError


class Loader:
    """The micro-batches of the steps from `start_step` to `max_steps`, in order.

    Its length is that of the whole run, `max_steps * accumulate`, wherever it starts: a resumed
    Lightning trainer goes on counting batches and compares the count with it. `workers` processes
    read ahead; with 0 the batches are made in the training process, which is quicker when the
    images are in memory. It is not a DataLoader, so that Lightning replaces no sampler in it and
    asks for no workers.
    """

    def __init__(
        self, batches: Batches, start_step: int, max_steps: int, workers: int = 0
    ) -> None:
        self.batches, self.start_step, self.max_steps = batches, start_step, max_steps
        self.workers = workers

    def __len__(self) -> int:
        return self.max_steps * self.batches.accumulate

    def __iter__(self) -> Iterator[Batch]:
        items = range(self.start_step * self.batches.accumulate, len(self))
        return self._read_ahead(items) if self.workers else map(self.batches.__getitem__, items)

    def _read_ahead(self, items: range) -> Iterator[Batch]:
        own = torch.Generator()  # else the workers' seed is drawn from the global generator
        loader = DataLoader(
            self.batches, batch_size=None, sampler=items, num_workers=self.workers, generator=own
        )
        try:
            yield from loader
        except UsageError as error:  # it arrives with the worker's traceback, its text last
            raise UsageError(str(error).strip().splitlines()[-1].partition(": ")[2]) from None

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the position follows from the step. Its presence says: this resumes exactly."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
