"""Sample grids while training, made with the averaged weights."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor

from diffgen.dataset.pixels import Range, enlarge, grid, save_png
from diffgen.denoiser.base import Denoiser
from diffgen.training.ema import Ema

log = logging.getLogger(__name__)


# denoiser, range, device, images at once -> images uint8 (N, C, H, W)
Draw = Callable[[Denoiser, Range, torch.device, int], Tensor]


class Stopped(Exception):
    """The run is to end, and does not wait for pictures."""


@contextmanager
def evaluating(module: Any, ema: Ema, stopping: Callable[[], bool]) -> Iterator[None]:
    """Within it the averaged weights in eval mode; Stopped where the run is to end."""

    def give_up(*_: Any) -> None:
        if stopping():
            raise Stopped

    watch = module.denoiser.network.register_forward_pre_hook(give_up)
    module.denoiser.eval()
    try:
        with ema.weights(module):
            yield
    finally:
        watch.remove()
        module.denoiser.train()


class Preview(L.Callback):
    """Every `every` steps, and at the end, a grid of `images` into the folder and the loggers.

    It is drawn with no more images at once than a training step has, so that it needs no more
    memory, and given up where `stopping` says so. A grid that cannot be drawn or written is told
    in one line and ends no training.
    """

    def __init__(
        self,
        folder: Path,
        ema: Ema,
        every: int,
        images: Draw,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder, self.ema, self.every, self.images = folder, ema, every, images
        self.stopping, self.step = stopping, 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps
        if trainer.is_global_zero and due and step != self.step:
            self.step = step
            try:
                picture = self._draw(trainer, pl_module)
                save_png(picture, self.folder / f"step_{step:07d}.png")
            except Stopped:
                return
            except (FloatingPointError, OSError, torch.OutOfMemoryError) as error:
                log.warning("no preview at step %d: %s", step, error)
                return
            for logger in trainer.loggers:
                _log(logger, picture, step)

    def _draw(self, trainer: L.Trainer, module: Any) -> Tensor:
        shares = trainer.world_size * trainer.accumulate_grad_batches
        most = max(1, module.batch_size // shares)
        with evaluating(module, self.ema, self.stopping):
            images = self.images(module.denoiser, module.pixel_range, module.device, most)
        return enlarge(grid(images))


def _log(logger: Any, picture: Tensor, step: int) -> None:
    """Show a picture uint8 (C, H, W) in a logger that can: tensorboard's or wandb's."""
    if hasattr(logger, "log_image"):
        logger.log_image("samples", [np.asarray(picture.permute(1, 2, 0).squeeze(-1))], step=step)
    elif hasattr(logger.experiment, "add_image"):
        logger.experiment.add_image("samples", picture, step)
