"""Saves checkpoints, and averages by width beside them, whole or not at all."""

import contextlib
import logging
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

from diffgen.files import remove_leftovers, write_atomically
from diffgen.training.ema import Ema

Contents = dict[str, Any]
log = logging.getLogger(__name__)


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


class Diverged(RuntimeError):
    """The loss or the weights are no longer finite: nothing of this state is worth keeping."""


class CheckpointSaver(L.Callback):
    """Saves `last.ckpt` every `every` steps, on a signal, at the end, and before an error ends it.

    Every `snapshot` steps the file is also saved as step_0001000.ckpt. A signal only sets a flag;
    the step under way is finished, every rank agrees, and `stopped` then holds the signal. An
    error between two updates of the weights leaves the state whole, which is then saved unless it
    diverged. It must stand behind the averages and what logs in the list of callbacks.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)

    def __init__(self, folder: Path, ema: Ema, every: int, snapshot: int | None) -> None:
        self.folder, self.ema, self.every, self.snapshot = folder, ema, every, snapshot
        self.received = self.stopped = self.step = self.saved = 0
        self.whole = False  # whether weights, averages and the optimiser are of one step
        self.handlers: dict[signal.Signals, Any] = {}

    @property
    def last(self) -> Path:
        """Where the newest checkpoint stands."""
        return self.folder / "last.ckpt"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            remove_leftovers(self.folder)
        self.step = self.saved = trainer.global_step
        self.whole = True
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # of nohup: the terminal may go
                self.handlers[number] = signal.signal(number, self._on_signal)

    def on_before_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.whole = False

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        step = trainer.global_step
        if step == self.step:
            return  # gradients are still accumulating; ranks agree at whole steps only
        self.step, self.whole = step, True
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
        if self.step < trainer.global_step == self.ema.step:  # a callback before this one failed
            self.step, self.whole = trainer.global_step, True
        kept = isinstance(exception, Diverged) or self.step == self.saved
        if trainer.is_global_zero and self.whole and not kept:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self._check(trainer, self.step)
                # trainer.save_checkpoint waits for the other ranks, which may be gone
                contents = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
                trainer.strategy.checkpoint_io.save_checkpoint(contents, self.last)
                self.saved = self.step
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        """Give the signals back, before Lightning gives back those that it had replaced."""
        for number, handler in self.handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self.handlers = {}

    def _save(self, trainer: L.Trainer, step: int, snapshot: bool) -> None:
        self._check(trainer, step)
        trainer.save_checkpoint(self.last, weights_only=False)  # with all that training needs
        self.saved = step
        if snapshot and trainer.is_global_zero:
            _link(self.last, self.folder / f"step_{step:07d}.ckpt")

    def _check(self, trainer: L.Trainer, step: int) -> None:
        """Diverged where weights are not finite, which never replace those that are."""
        module: Any = trainer.lightning_module
        if not all(bool(w.isfinite().all()) for w in module.denoiser.network.parameters()):
            raise Diverged(f"the weights are not finite at step {step}; lower optimizer.lr")

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
