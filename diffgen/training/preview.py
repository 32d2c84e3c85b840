"""Sample grids while training, made with the averaged weights."""

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

    def __call__(self, denoiser: Denoiser, pixel_range: Range, device: torch.device) -> Tensor:
        """Images uint8 (num_samples, C, H, W) of the denoiser as it stands."""
        plan, bounds = self.plan, (pixel_range.low, pixel_range.high)
        denoiser = plan.clipped(denoiser, pixel_range)
        noise = SeededNoise(0, range(self.num_samples))
        like = torch.empty(self.num_samples, *self.shape, device=device)
        x = plan.start(denoiser.schedule, plan.times[0], like, noise, bounds)
        labels = None if self.labels is None else self.labels.to(device)
        return pixel_range.to_uint8(plan.sampler(denoiser, x, plan.times, labels, noise)).cpu()


class Preview(L.Callback):
    """Every `every` steps, and at the end, a grid of `images` into the folder and the loggers."""

    def __init__(self, folder: Path, ema: Ema, every: int, images: PreviewImages) -> None:
        self.folder, self.ema, self.every, self.images = folder, ema, every, images
        self.step = 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps
        if trainer.is_global_zero and due and step != self.step:
            self.step = step
            self._draw(trainer, pl_module, step)

    def _draw(self, trainer: L.Trainer, module: Any, step: int) -> None:
        module.denoiser.eval()
        with self.ema.weights(module):
            images = self.images(module.denoiser, module.pixel_range, module.device)
        module.denoiser.train()
        picture = enlarge(grid(images))
        save_png(picture, self.folder / f"step_{step:07d}.png")
        for logger in trainer.loggers:
            _log(logger, picture, step)


def _log(logger: Any, picture: Tensor, step: int) -> None:
    """Show a picture uint8 (C, H, W) in a logger that can: tensorboard's or wandb's."""
    if hasattr(logger, "log_image"):
        logger.log_image("samples", [np.asarray(picture.permute(1, 2, 0).squeeze(-1))], step=step)
    elif hasattr(logger.experiment, "add_image"):
        logger.experiment.add_image("samples", picture, step)
