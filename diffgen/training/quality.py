"""Quality while training: figures of the averaged weights, and the best checkpoint."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from diffgen.dataset.images import Images
from diffgen.dataset.random_choices import subset
from diffgen.training.ema import Ema
from diffgen.training.module import LossByTime, Module
from diffgen.training.preview import Stopped, evaluating
from diffgen.training.random_numbers import RandomNumbers

log = logging.getLogger(__name__)

Measure = Callable[[Module], Mapping[str, float]]


@dataclass(frozen=True)
class HeldOutLoss:
    """The loss on `count` held-out images, over all and by tenth of time.

    Images, times and noise are the same each time, so that figures of two steps compare.
    """

    images: Images
    count: int

    def __call__(self, module: Module) -> dict[str, float]:
        """`held_out_loss`, `held_out_loss/t0.1` and so on; of a classifier its accuracy, too."""
        losses = LossByTime()
        rows = subset(len(self.images), min(self.count, len(self.images)))
        for k, part in enumerate(rows.split(module.batch_size)):
            random = RandomNumbers(0, k, len(part), torch.arange(len(part)))
            x0 = module.images(self.images.at(part).to(module.device), random)
            labels = self.images.labels if module.num_classes else None
            label = None if labels is None else labels[part].to(module.device)
            errors, t, *correct = module.loss(x0, label, random)
            losses.add(t, errors)
            for each in correct:
                losses.add(t, each, "accuracy")
        return {f"held_out_{name}": value for name, value in losses.means().items()}


class Quality(L.Callback):
    """Every `every` steps, and at the end, the figures of what `make` gives into the loggers.

    `make` is called with the device, before the first step, so that what it refuses costs nothing.
    The figures are those of the averaged weights, in eval mode. Where `best`, one of their names
    or auto for the first one, is lower than ever before, the state is also saved as best.ckpt. It
    must stand behind the averages, and before what saves and reports, so that a resumed run knows
    the best. Every rank takes part, the first one measures. What cannot be measured, and what
    `stopping` interrupts, is left out.
    """

    def __init__(
        self,
        folder: Path,
        ema: Ema,
        every: int,
        make: Callable[[torch.device], list[Measure]],
        best: str,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder, self.ema, self.every = folder, ema, every
        self.make, self.best, self.stopping = make, best, stopping
        self.measures: list[Measure] = []
        self.lowest, self.step = math.inf, 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.measures = self.make(pl_module.device)

    def state_dict(self) -> dict[str, Any]:
        return {"lowest": self.lowest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lowest = state_dict["lowest"]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        step = trainer.global_step
        if step == self.step or (step % self.every and step != trainer.max_steps):
            return
        self.step = step
        figures = self._measured(pl_module) if trainer.is_global_zero else {}
        best = next(iter(figures), "") if self.best == "auto" else self.best
        value = trainer.strategy.broadcast(figures.get(best, math.inf))
        better = math.isfinite(value) and value < self.lowest
        if better:
            self.lowest = value
            trainer.save_checkpoint(self.folder / "best.ckpt", weights_only=False)
        for logger in trainer.loggers:
            logger.log_metrics(dict(figures), step)
        if trainer.is_global_zero:
            text = ", ".join(f"{k} {v:.4g}" for k, v in figures.items() if "/" not in k)
            pl_module.quality = text + (" (best)" if better else "")

    @torch.no_grad()
    def _measured(self, module: Module) -> dict[str, float]:
        try:
            with evaluating(module, self.ema, self.stopping):
                return {k: v for measure in self.measures for k, v in measure(module).items()}
        except Stopped:
            return {}
        except (FloatingPointError, OSError, torch.OutOfMemoryError) as error:
            log.warning("no figures of quality at step %d: %s", self.step, error)
            return {}
