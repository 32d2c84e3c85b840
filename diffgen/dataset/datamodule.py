"""What feeds the trainer: a set of images, read as one endless epoch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from diffgen.dataset.batches import Batch, Batches
from diffgen.errors import UsageError


@dataclass(frozen=True, eq=False)
class Loader:
    """The micro-batches of the steps from `start_step` to `max_steps`, in order.

    Its length is that of the whole run, `max_steps * accumulate`, wherever it starts: a resumed
    Lightning trainer goes on counting batches and compares the count with it. `workers` processes
    read ahead; with 0 the batches are made in the training process, which is quicker when the
    images are in memory. It is not a DataLoader, so that Lightning replaces no sampler in it and
    asks for no workers.
    """

    batches: Batches
    start_step: int
    max_steps: int
    workers: int = 0

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


class DataModule(LightningDataModule):
    """Shares `batches` out among the ranks of a trainer that stops by `max_steps`.

    Their `accumulate` is the trainer's accumulate_grad_batches. `workers` processes decode images
    that do not fit into memory; those that do are handed out without.
    """

    def __init__(self, batches: Batches, max_steps: int, workers: int = 0) -> None:
        super().__init__()
        self.batches, self.max_steps, self.workers = batches, max_steps, workers

    def train_dataloader(self) -> Loader:
        """The batches from the trainer's step on, for the trainer's rank."""
        if self.trainer is None:
            raise UsageError("a DataModule gives batches to a trainer; use Batches without one")
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        batches = replace(self.batches, rank=rank, world_size=world_size)
        start = self.trainer.global_step
        self._count_from(start * batches.accumulate)
        in_memory = isinstance(batches.images.pixels, Tensor)
        return Loader(batches, start, self.max_steps, 0 if in_memory else self.workers)

    def _count_from(self, batch: int) -> None:
        """Sets the trainer's count of batches to that of the step it resumes at.

        The count it restored is another one if the checkpoint was written between the
        micro-batches of a step, or by a run with another `accumulate`.
        """
        assert self.trainer is not None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        shift = batch - progress.current.ready
        for count in ("ready", "started", "processed", "completed"):
            setattr(progress.current, count, getattr(progress.current, count) + shift)
