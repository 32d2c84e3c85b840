"""How a run tells where it is: a bar on a terminal, a line now and then elsewhere, and the log."""

import sys
import time
from typing import Any

import lightning.pytorch as L
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from diffgen.training.level_losses import LevelLosses


class Reporter(L.Callback):
    """Loss, images/s and time left; every `every` steps a row in the loggers.

    A loss that is no longer finite stops the run, since nothing after it would be worth keeping.
    """

    def __init__(self, every: int, quiet_seconds: float = 10.0) -> None:
        self.every, self.quiet_seconds = every, quiet_seconds
        self.bar: Progress | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.read = self.spoken = (time.monotonic(), trainer.global_step)
        if trainer.is_global_zero and sys.stderr.isatty():
            columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
            self.bar = Progress(*columns, transient=True, console=Console(stderr=True))
            self.task = self.bar.add_task(
                "training", total=trainer.max_steps, completed=trainer.global_step
            )
            self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        step = trainer.global_step
        if step == self.read[1] or (step % self.every and step != trainer.max_steps):
            return
        losses: LevelLosses = pl_module.level_losses
        values = losses.read()
        if not torch.isfinite(torch.tensor(values["loss"])):
            raise RuntimeError(f"the loss is {values['loss']} at step {step}; lower optimizer.lr")
        now = time.monotonic()
        seconds, steps = now - self.read[0], step - self.read[1]
        self.read = (now, step)
        values["images_per_second"] = pl_module.batch_size * steps / seconds
        values["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        for logger in trainer.loggers:
            logger.log_metrics(values, step)
        if trainer.is_global_zero:
            self._say(trainer, step, values, (trainer.max_steps - step) * seconds / steps)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _say(self, trainer: L.Trainer, step: int, values: dict[str, float], left: float) -> None:
        right = f"accuracy {values['accuracy']:.3f}  " if "accuracy" in values else ""
        text = (
            f"step {step}/{trainer.max_steps}  loss {values['loss']:.4f}  {right}"
            f"{values['images_per_second']:.0f} images/s"
        )
        if self.bar:
            self.bar.update(self.task, completed=step, description=text)
        elif time.monotonic() - self.spoken[0] >= self.quiet_seconds or step == trainer.max_steps:
            self.spoken = (time.monotonic(), step)
            print(f"{text}  {int(left // 60)} min {left % 60:02.0f} s left", flush=True)

    def _close(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None
