"""Reports the progress of a run: a bar on a terminal, else lines, and rows of the log."""

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import lightning.pytorch as L
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from diffgen.training.module import BINS, LossByTime
from diffgen.training.saving import Diverged


def say(line: str) -> None:
    """Print a line; where nobody reads any more, this line and those to come go nowhere."""
    try:
        print(line, flush=True)
    except OSError:
        # Python flushes at its end, and would complain of the same once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Reporter(L.Callback):
    """Loss, images/s and time left; every `every` steps a row in the loggers.

    Between rows it shows the losses so far, each second on a bar, else every `quiet_seconds`, the
    first time after two. A reader of it that goes away ends no training.
    A loss that is no longer finite stops the run, since nothing after it would be worth keeping.
    It must stand before what saves: then a checkpoint holds the losses since the last row and the
    rows that no log holds, and a run that goes on from it writes each row once.
    """

    def __init__(self, every: int, quiet_seconds: float = 10.0) -> None:
        self.every, self.quiet_seconds = every, quiet_seconds
        self.bar: Progress | None = None
        self.unwritten: dict[int, dict[str, float]] = {}  # rows of a checkpoint

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        waiting = (getattr(logger, "unwritten", {}) for logger in trainer.loggers)
        rows = {step: row for each in waiting for step, row in each.items()}
        checkpoint["log"] = {"losses": pl_module.loss_by_time.sums, "unwritten": rows}

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if kept := checkpoint.get("log"):  # not of earlier versions
            sums = kept["losses"].items()
            pl_module.loss_by_time.sums = {k: v for k, v in sums if v.shape == (2, BINS)}
            self.unwritten = kept["unwritten"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.last_row = (time.monotonic(), trainer.global_step)
        self.shown_at = self.last_row[0] - self.quiet_seconds + min(2.0, self.quiet_seconds)
        for logger in trainer.loggers:
            go_on = getattr(logger, "go_on", None)
            if go_on:  # of a file, where rows behind a checkpoint would come twice
                go_on(trainer.global_step, self.unwritten)
        if trainer.is_global_zero and sys.stderr.isatty():
            columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
            self.bar = Progress(*columns, transient=True, console=Console(stderr=True))
            self.task = self.bar.add_task(
                "training", total=trainer.max_steps, completed=trainer.global_step
            )
            self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        step = trainer.global_step
        if step == self.last_row[1]:
            return
        if step % self.every == 0 or step == trainer.max_steps:
            self._row(trainer, pl_module, step)
        elif trainer.is_global_zero and self._seconds_since_shown() >= (
            1 if self.bar else self.quiet_seconds
        ):
            self._show(trainer, pl_module, step, pl_module.loss_by_time.means())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _row(self, trainer: L.Trainer, pl_module: Any, step: int) -> None:
        """Log the means since the row before."""
        losses: LossByTime = pl_module.loss_by_time
        values, now = losses.pop_means(), time.monotonic()
        if not torch.isfinite(torch.tensor(values["loss"])):
            raise Diverged(f"the loss is {values['loss']} at step {step}; lower optimizer.lr")
        row = {
            **values,
            "images_per_second": pl_module.batch_size / self._seconds_per_step(step),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
        }
        for logger in trainer.loggers:
            logger.log_metrics(row, step)
        last = step == trainer.max_steps
        if trainer.is_global_zero and (
            self.bar or last or self._seconds_since_shown() >= self.quiet_seconds
        ):
            self._show(trainer, pl_module, step, values)
        self.last_row = (now, step)

    def _show(
        self, trainer: L.Trainer, pl_module: Any, step: int, values: Mapping[str, float]
    ) -> None:
        self.shown_at, per_step = time.monotonic(), self._seconds_per_step(step)
        accuracy = f"accuracy {values['accuracy']:.3f}  " if "accuracy" in values else ""
        text = (
            f"step {step}/{trainer.max_steps}  loss {values['loss']:.4f}  {accuracy}"
            f"{pl_module.batch_size / per_step:.0f} images/s"
            f"{pl_module.quality and '  ' + pl_module.quality}"
        )
        left = (trainer.max_steps - step) * per_step
        if self.bar:
            try:
                self.bar.update(self.task, completed=step, description=text)
            except OSError:  # the terminal is gone
                self.bar = None
        else:
            end = f", until {datetime.now() + timedelta(seconds=left):%H:%M}" if left else ""
            say(f"{text}  {int(left // 60)} min {left % 60:02.0f} s left{end}")

    def _seconds_per_step(self, step: int) -> float:
        return (time.monotonic() - self.last_row[0]) / (step - self.last_row[1])

    def _seconds_since_shown(self) -> float:
        return time.monotonic() - self.shown_at

    def _close(self) -> None:
        if self.bar:
            with contextlib.suppress(OSError):
                self.bar.stop()
            self.bar = None
