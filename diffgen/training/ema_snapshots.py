"""Files of the averages by relative width, of which others are made after the training."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from diffgen.files import write_atomically
from diffgen.training.ema import Ema

log = logging.getLogger(__name__)


class EmaSnapshots(L.Callback):
    """Writes ema_0001000.ckpt at `count` even steps: the averages in `names`, header and hash.

    Such a file is a small checkpoint, without the raw weights and without what training needs;
    `seal` writes its hash. It must stand behind the averages in the list of callbacks. Where the
    files of the whole run would take more than half of the free disk, none are written and a line
    says so.
    """

    def __init__(
        self,
        folder: Path,
        ema: Ema,
        names: list[str],
        count: int,
        seal: Callable[[dict[str, Any]], None],
    ) -> None:
        self.folder, self.ema, self.names, self.count, self.seal = folder, ema, names, count, seal
        self.steps: set[int] = set()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the steps; what a continued run wrote behind its checkpoint goes."""
        if not self.names or not trainer.is_global_zero:
            return
        for path in self.folder.glob("ema_*.ckpt"):
            if int(path.stem.removeprefix("ema_")) > trainer.global_step:
                path.unlink()
        last, count = trainer.max_steps, self.count
        self.steps = {round(last * (k + 1) / count) for k in range(count)}
        averages = self.ema.averages
        weights = sum(w.nbytes for name in self.names for w in averages[name].values())
        needed, free = weights * count, shutil.disk_usage(self.folder.parent).free
        if needed > free / 2:
            self.steps = set()
            log.warning(
                "no files of averages are kept: trainer.ema_snapshots=%d would take %.1f of the "
                "%.1f GB that are free",
                count,
                needed / 1e9,
                free / 1e9,
            )

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        step = trainer.global_step
        if step not in self.steps:
            return
        self.steps.remove(step)  # with gradients that accumulate the step is seen several times
        averages = {name: self.ema.averages[name] for name in self.names}
        network = "denoiser.network."
        buffers = {
            key: value
            for key, value in pl_module.state_dict().items()
            if key.startswith(network) and key.removeprefix(network) not in averages[self.names[0]]
        }
        contents: dict[str, Any] = {"global_step": step, "state_dict": buffers, "ema": averages}
        pl_module.on_save_checkpoint(contents)
        self.seal(contents)
        path = self.folder / f"ema_{step:07d}.ckpt"
        write_atomically(path, lambda file: torch.save(contents, file))
