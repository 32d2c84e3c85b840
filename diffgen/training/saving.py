"""Saves checkpoints, whole or not at all, at steps, signals and the end."""

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from diffgen.files import write_atomically

Contents = dict[str, Any]


class SealedCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint with `seal`'s hashes, whole or not at all; reads it by `read`."""

    def __init__(self, seal: Callable[[Contents], None], read: Callable[[Path], Contents]) -> None:
        super().__init__()
        self.seal, self.read = seal, read

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> Contents:
        return self.read(Path(path))

    def save_checkpoint(
        self, checkpoint: Contents, path: Any, storage_options: Any = None
    ) -> None:
        if "diffgen" in checkpoint:
            self.seal(checkpoint)
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))


class CheckpointSaver(L.Callback):
    """Saves `last.ckpt` every `every` steps, on SIGTERM, SIGUSR1, SIGUSR2, Ctrl-C and at the end.

    Every `snapshot` steps the file is also saved as step_0001000.ckpt. A signal only sets a flag;
    the step under way is finished, every rank agrees, and `stopped` then holds the signal. It
    must stand behind the averages in the list of callbacks.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)

    def __init__(self, folder: Path, every: int, snapshot: int | None) -> None:
        self.folder, self.every, self.snapshot = folder, every, snapshot
        self.received = self.stopped = self.step = 0
        self.handlers: dict[signal.Signals, Any] = {}

    @property
    def last(self) -> Path:
        """Where the newest checkpoint stands."""
        return self.folder / "last.ckpt"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for leftover in self.folder.glob(".*.partial"):
            leftover.unlink(missing_ok=True)
        self.step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                self.handlers[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        step = trainer.global_step
        if step == self.step:
            return  # gradients are still accumulating; ranks agree at whole steps only
        self.step = step
        stop = trainer.strategy.reduce_boolean_decision(bool(self.received), all=False)
        if stop:
            self.stopped = self.received or signal.SIGTERM
            trainer.should_stop = True
        snapshot = bool(self.snapshot) and step % (self.snapshot or 1) == 0
        if stop or snapshot or step % self.every == 0 or step == trainer.max_steps:
            self._save(trainer, step, snapshot)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        """Give the signals back, before Lightning gives back those that it had replaced."""
        for number, handler in self.handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self.handlers = {}

    def _save(self, trainer: L.Trainer, step: int, snapshot: bool) -> None:
        module: Any = trainer.lightning_module
        if not all(bool(w.isfinite().all()) for w in module.denoiser.network.parameters()):
            before = f"{self.last} holds those before" if self.last.is_file() else "none are kept"
            raise RuntimeError(
                f"the weights are not finite at step {step} and are not written ({before}); "
                "lower optimizer.lr"
            )
        trainer.save_checkpoint(self.last, weights_only=False)  # with all that training needs
        if snapshot and trainer.is_global_zero:
            _link(self.last, self.folder / f"step_{step:07d}.ckpt")

    def _on_signal(self, number: int, frame: object) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt  # asked twice: now
        self.received = self.received or number


def _link(path: Path, name: Path) -> None:
    """Give a file a second name, without a second copy where the file system has links."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:  # this file system has none
        with path.open("rb") as source:
            write_atomically(name, lambda file: shutil.copyfileobj(source, file))
