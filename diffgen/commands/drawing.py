"""A task's images, drawn in batches on its devices; what is drawn survives an interruption."""

import logging
import time
from collections.abc import Sequence

import torch
from lightning.fabric import Fabric
from rich.console import Console
from rich.progress import track
from torch import Tensor

from diffgen.denoiser.evaluations import RowCount
from diffgen.runs.drawn_batches import Drawn, DrawnBatches, joined
from diffgen.task.base import Task

log = logging.getLogger(__name__)


class Drawing:
    """A task on its devices, the counters of the networks it calls, and its finished batches."""

    def __init__(
        self, task: Task, counters: Sequence[RowCount], fabric: Fabric, kept: DrawnBatches
    ) -> None:
        self.task, self.counters, self.fabric, self.kept = task, counters, fabric, kept

    def __call__(self, batch_size: int) -> tuple[Tensor, dict[str, float]]:
        """All images uint8 (count, C, H, W), shared among the devices, and what they cost.

        A call after an interrupted one draws what is missing, in the same batches.
        """
        total, ranks = self.task.count, self.fabric.world_size
        share = -(-total // ranks)
        mine = torch.arange(self.fabric.global_rank * share, share * (1 + self.fabric.global_rank))
        mine = mine.clamp(max=total - 1)  # the last device's share is filled up
        try:
            drawn = self.drawn(mine.unique(), batch_size)
            rows = torch.searchsorted(drawn.numbers, mine)
            images = torch.as_tensor(self.fabric.all_gather(drawn.images[rows]))
        except BaseException as error:
            self.kept.write()
            if self.fabric.global_rank == 0 and isinstance(error, KeyboardInterrupt | SystemExit):
                count = len(self.kept.read().numbers.unique())
                log.warning(f"interrupted: {count} of {total} images are kept")
            raise
        seconds = float(drawn.seconds.sum())
        nfe = round(float(drawn.nfe[rows].mean()), 2)
        cost = {"seconds": seconds, "images_per_second": total / seconds, "nfe": nfe}
        return images.reshape(-1, *self.task.shape)[:total].cpu(), cost

    def drawn(self, numbers: Tensor, batch_size: int) -> Drawn:
        """The images of these numbers, in order; those that no earlier call drew are drawn."""
        earlier = self.kept.read().at(numbers)
        if len(earlier.numbers):
            log.info(f"{len(earlier.numbers)} images were drawn earlier")
        missing = [
            batch[~torch.isin(batch, earlier.numbers)] for batch in numbers.split(batch_size)
        ]
        parts, console = [earlier], Console(stderr=True)
        for batch in track(
            [batch for batch in missing if len(batch)],
            "sampling",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ):
            parts.append(self.batch(batch))
            self.kept.add(parts[-1])
        found = joined(parts)
        return found.at(numbers)

    def batch(self, numbers: Tensor) -> Drawn:
        """The images of these numbers at once."""
        rows, start = sum(counter.rows for counter in self.counters), time.monotonic()
        with self.fabric.autocast():
            images = self.task(numbers.tolist(), self.fabric.device)
        rows = sum(counter.rows for counter in self.counters) - rows
        each = torch.ones(len(numbers), dtype=torch.float64) / len(numbers)
        return Drawn(numbers, images, rows * each, (time.monotonic() - start) * each)
