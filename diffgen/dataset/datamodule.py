"""What feeds the trainer: a set of images, read as one endless epoch."""

from lightning.pytorch import LightningDataModule
from torch import Tensor

from diffgen.dataset.batches import Batches
from diffgen.dataset.images import Images
from diffgen.dataset.loader import Loader
from diffgen.errors import UsageError


class DataModule(LightningDataModule):
    """The training batches of `images`, for a trainer that stops by `max_steps`.

    `flip` mirrors half of them. `batch_size` counts the images of a step, over all devices and
    micro-batches; `accumulate` is the trainer's accumulate_grad_batches. `workers` processes
    decode images that do not fit into memory; those that do are handed out without.
    """

    def __init__(
        self,
        images: Images,
        flip: bool,
        batch_size: int,
        seed: int,
        accumulate: int,
        max_steps: int,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.images, self.flip = images, flip
        self.batch_size, self.seed = batch_size, seed
        self.accumulate, self.max_steps, self.workers = accumulate, max_steps, workers

    def train_dataloader(self) -> Loader:
        """The batches from the trainer's step on, for the trainer's rank."""
        if self.trainer is None:
            raise UsageError("a DataModule gives batches to a trainer; use Batches without one")
        start = self.trainer.global_step
        self._count_from(start * self.accumulate)
        batches = Batches(
            self.images,
            self.batch_size,
            self.seed,
            self.accumulate,
            self.trainer.global_rank,
            self.trainer.world_size,
            self.flip,
        )
        in_memory = isinstance(self.images.pixels, Tensor)
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
