"""Sample grids while training, made with the averaged weights."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor

from diffgen.dataset.pixels import Range, enlarge, grid, save_png
from diffgen.denoiser.base import Denoiser
from diffgen.sampler import Sampler, SeededNoise
from diffgen.sampler.noise import Start
from diffgen.training.ema import Ema

log = logging.getLogger(__name__)


class Plan(Protocol):
    """A sampler with its times, start and clip: diffgen.sampling.plan has it."""

    @property
    def sampler(self) -> Sampler: ...
    @property
    def times(self) -> Tensor: ...
    @property
    def start(self) -> Start: ...

    def clipped(self, denoiser: Denoiser, pixel_range: Range, /) -> Denoiser: ...


@dataclass(frozen=True, kw_only=True)
class PreviewImages:
    """Draws the same images each time, from the same noise; `shape` (C, H, W) is one image's."""

    plan: Plan
    shape: tuple[int, int, int]
    labels: Tensor | None
    num_samples: int

    def __call__(
        self, denoiser: Denoiser, pixel_range: Range, device: torch.device, batch_size: int
    ) -> Tensor:
        """Images uint8 (num_samples, C, H, W) of the denoiser as it stands.

        `batch_size` of them are drawn at once.
        """
        denoiser = self.plan.clipped(denoiser, pixel_range)
        parts = torch.arange(self.num_samples).split(batch_size)
        return torch.cat([self._part(denoiser, pixel_range, device, part) for part in parts])

    def _part(
        self, denoiser: Denoiser, pixel_range: Range, device: torch.device, part: Tensor
    ) -> Tensor:
        """The images whose numbers are `part` (b,), the same in any batch."""
        plan, bounds = self.plan, (pixel_range.low, pixel_range.high)
        noise = SeededNoise(0, part.tolist())
        like = torch.empty(len(part), *self.shape, device=device)
        x = plan.start(denoiser.schedule, plan.times[0], like, noise, bounds)
        labels = None if self.labels is None else self.labels[part].to(device)
        return pixel_range.to_uint8(plan.sampler(denoiser, x, plan.times, labels, noise)).cpu()


class Stopped(Exception):
    """The run is to end, and does not wait for pictures."""


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
        images: PreviewImages,
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
        """The grid as a picture uint8 (C, H, W)."""
        shares = trainer.world_size * trainer.accumulate_grad_batches
        network = module.denoiser.network
        watch = network.register_forward_pre_hook(self._give_up)
        module.denoiser.eval()
        try:
            with self.ema.weights(module):
                images = self.images(
                    module.denoiser,
                    module.pixel_range,
                    module.device,
                    max(1, module.batch_size // shares),
                )
        finally:
            watch.remove()
            module.denoiser.train()
        return enlarge(grid(images))

    def _give_up(self, *_: Any) -> None:
        if self.stopping():
            raise Stopped


def _log(logger: Any, picture: Tensor, step: int) -> None:
    """Show a picture uint8 (C, H, W) in a logger that can: tensorboard's or wandb's."""
    if hasattr(logger, "log_image"):
        logger.log_image("samples", [np.asarray(picture.permute(1, 2, 0).squeeze(-1))], step=step)
    elif hasattr(logger.experiment, "add_image"):
        logger.experiment.add_image("samples", picture, step)
