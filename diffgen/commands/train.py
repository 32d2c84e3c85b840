"""`diffgen train`: a configuration in, checkpoints out."""

import contextlib
import logging
import shlex
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning.pytorch as L
import torch
from hydra.core.hydra_config import HydraConfig

from diffgen import __version__
from diffgen.cli.job import continue_in
from diffgen.commands.data_dependent import followed, range_of, resolved
from diffgen.commands.initial_weights import begun, fill
from diffgen.commands.resume import as_typed, resumed
from diffgen.commands.train_callbacks import Watched
from diffgen.config.schema import Train
from diffgen.dataset.batches import Batches
from diffgen.dataset.datamodule import DataModule
from diffgen.dataset.images import Images, Source, described, numbered_as, shape_of
from diffgen.files import WriteError, write_atomically
from diffgen.runs.checkpoint import Checkpoint, contents, load
from diffgen.runs.checkpoint_format import header, seal
from diffgen.runtime.devices import fabric_of, strategy_of
from diffgen.runtime.launch import quiet, say_ready
from diffgen.runtime.logger import finish, logger_of
from diffgen.runtime.run_lock import sole_writer
from diffgen.training.ema import Ema
from diffgen.training.module import Module
from diffgen.training.progress import Reporter, say
from diffgen.training.saving import CheckpointSaver, Diverged, EmaSnapshots, SealedCheckpointIO

log = logging.getLogger(__name__)


def train(settings: Train) -> None:
    """Train what the configuration describes; the run's folder is printed last."""
    quiet()
    job, images, initial = HydraConfig.get(), None, None
    settings = followed(settings)
    if settings.resume in (None, "auto"):
        settings, initial = begun(settings, job.overrides.task)
    folder = Path(job.runtime.output_dir)
    if settings.resume in (None, "auto") and settings.recipe.unmeasured():
        images = settings.dataset.build().split("train")  # else a recipe holds the numbers
        settings = resolved(settings, images)
    settings, folder, checkpoint = resumed(settings, job.overrides.task, folder)
    with sole_writer(folder):
        continue_in(folder)
        run = Run(settings, folder, None if checkpoint else initial)
        with as_typed(settings, job.overrides.task) if checkpoint else contextlib.nullcontext():
            run.fit(checkpoint, images)
    say(str(folder))


def draw_curves(folder: Path) -> None:
    """Write curves.png, where there is a metrics.csv; a full disk undoes no training."""
    from diffgen.evaluation.curves import curves  # matplotlib would delay each first step

    if figure := curves(folder / "metrics.csv"):
        picture = folder / "curves.png"
        try:
            write_atomically(picture, lambda file: figure.savefig(file, format="png", dpi=100))
        except WriteError as error:
            log.warning("%s", error)


@dataclass(frozen=True)
class Run:
    """A resolved training configuration and the folder that holds what comes of it.

    `initial` holds the weights that a new run begins from, where it does not draw them.
    """

    settings: Train
    folder: Path
    initial: Checkpoint | None = None

    def fit(self, checkpoint: Path | None, read: Images | None = None) -> None:
        """Train to the last step, from a checkpoint where there is one.

        `read` is the training set, if it was read before. SystemExit(128 + signal) after a stop
        by signal, the checkpoint written. Whatever else ends it, the state is saved if it is
        whole, and a line says what is saved and how to go on.
        """
        settings = self.settings.trainer
        if warning := self.settings.optimizer.warning(settings.max_steps):
            log.warning("%s", warning)
        fabric_of(asdict(settings), "trainer.")
        source: Source = self.settings.dataset.build()
        images = read or source.split("train")
        if checkpoint:
            images = numbered_as(images, load(checkpoint).classes)
        log.info("training on %s", described(images))
        module = self.module(images)
        ema = Ema(self.settings.ema)
        saver = CheckpointSaver(
            self.folder / "checkpoints", ema, settings.save_every, settings.snapshot_every
        )
        reporter = Reporter(settings.log_every)
        named = [name for name, average in self.settings.ema.items() if average.width]
        kept = EmaSnapshots(saver.folder, ema, named, settings.ema_snapshots, seal)
        watched = Watched(self.settings, self.folder, module, images, self.classes(images))
        previews = watched.previews(ema, lambda: bool(saver.received))
        quality = watched.quality(ema, source, lambda: bool(saver.received))
        trainer = self.trainer([ema, *quality, reporter, saver, kept, *previews])
        self.tell(module, trainer)
        seed, flip = self.settings.seed, source.flip
        batches = Batches(images, settings.batch_size, seed, settings.accumulate, flip=flip)
        data = DataModule(batches, settings.max_steps, settings.workers)
        say_ready()
        try:
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        except Diverged as error:
            raise Diverged(f"{error}; {self.saved(saver, diverged=True)}") from error
        except BaseException:
            if trainer.is_global_zero:
                log.warning(self.saved(saver))
            raise
        finally:
            finish(trainer.loggers)
        # Another status than 0 of another rank would have Lightning kill this one, working or not.
        if saver.stopped and trainer.is_global_zero:
            name = signal.Signals(saver.stopped).name
            with contextlib.suppress(OSError):  # the terminal may be gone
                print(f"diffgen: stopped by {name}; {self.saved(saver)}", file=sys.stderr)
            raise SystemExit(128 + saver.stopped)
        if trainer.is_global_zero:
            draw_curves(self.folder)

    def tell(self, module: Module, trainer: L.Trainer) -> None:
        """Log what learns, on what, and where it is written."""
        if trainer.is_global_zero:
            count = sum(p.numel() for p in module.denoiser.network.parameters())
            device, threads = trainer.strategy.root_device, torch.get_num_threads()
            on = torch.cuda.get_device_name() if device.type == "cuda" else f"{threads} threads"
            log.info("%s parameters on %s (%s), in %s", f"{count:,}", device, on, self.folder)

    def saved(self, saver: CheckpointSaver, diverged: bool = False) -> str:
        """What of the run is on the disk, and what goes on with it.

        A run that diverged would do so again, to the bit, if it were resumed.
        """
        if not saver.last.is_file():
            return "nothing of it is saved"
        name = shlex.quote(str(self.folder))
        if diverged:
            return f"step {saver.saved} is saved; init={name} begins a new run with its weights"
        return f"step {saver.saved} is saved; go on with: diffgen train resume={name}"

    def module(self, images: Images) -> Module:
        """The LightningModule, its weights drawn from the seed."""
        settings, num_classes = self.settings, len(self.classes(images))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            objective = settings.recipe.objective(shape_of(images), num_classes)
        if self.initial:
            begin = (objective.learner.network, settings.recipe, shape_of(images))
            fill(*begin, self.classes(images), self.initial, settings.init_ema)
        if settings.channels_last:
            objective.learner.network.to(memory_format=torch.channels_last)
        if settings.compile:
            objective.learner.network.compile()
        model = settings.recipe.model
        pixel_range = range_of(model.range, images)
        return Module(
            objective,
            pixel_range,
            settings.optimizer,
            header(
                __version__, settings.plain, pixel_range, shape_of(images), self.classes(images)
            ),
            seed=settings.seed,
            batch_size=settings.trainer.batch_size,
            num_classes=num_classes,
            label_dropout=model.label_dropout,
            dequantise=model.dequantise,
            channels_last=settings.channels_last,
            augment=settings.augment,
        )

    def classes(self, images: Images) -> tuple[str, ...]:
        """The names of the classes that the model learns, () where it learns none."""
        return images.classes if self.settings.recipe.model.labels else ()

    def trainer(self, callbacks: list[L.Callback]) -> L.Trainer:
        """Lightning's Trainer for these settings."""
        settings = self.settings.trainer
        return L.Trainer(
            max_steps=settings.max_steps,
            accelerator=settings.accelerator,
            devices=settings.devices,
            strategy=strategy_of(settings.devices),
            precision=settings.precision,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.clip,
            callbacks=callbacks,
            plugins=[SealedCheckpointIO(seal, contents)],
            logger=logger_of(self.settings.logger, self.folder, self.settings.plain),
            default_root_dir=self.folder,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
