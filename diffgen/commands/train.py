"""`diffgen train`: a configuration in, checkpoints out."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from diffgen import __version__
from diffgen.cli.job_dir import move_in
from diffgen.commands.data_dependent import followed, range_of, resolved, waiting
from diffgen.commands.resume import resumed
from diffgen.config.build import build, typed
from diffgen.config.classifier_recipe import settings_of
from diffgen.config.objective import objective_of
from diffgen.config.recipe import (
    ModelSettings,
    PreviewSettings,
    TrainerSettings,
    spacing_of,
    start_of,
    times_of,
)
from diffgen.dataset.datamodule import DataModule
from diffgen.dataset.images import Images, Source, shape_of
from diffgen.dataset.pixels import Range
from diffgen.runs.checkpoint_format import FORMAT, seal
from diffgen.runtime.devices import fabric_of, strategy_of
from diffgen.runtime.launch import quiet
from diffgen.runtime.logger import finish, logger_of
from diffgen.sampler.start import STARTS
from diffgen.training.ema import Ema, EmaSettings
from diffgen.training.module import Module
from diffgen.training.optimizer import OptimizerSettings
from diffgen.training.preview import Preview, PreviewImages
from diffgen.training.progress import Reporter
from diffgen.training.saving import CheckpointSaver, SealedCheckpointIO


def train(cfg: DictConfig) -> None:
    """Train what the configuration describes; the run's folder is printed last."""
    quiet()
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    config = followed(config)
    job, checkpoint, images = HydraConfig.get(), None, None
    folder = Path(job.runtime.output_dir)
    if config["resume"] in (None, "auto") and waiting(config):  # else a recipe holds the numbers
        images = build("dataset", config["dataset"]).split("train")
        config = resolved(config, images)
    if config["resume"]:
        config, folder, checkpoint = resumed(config, job.overrides.task, folder)
        move_in(folder)
    Run(config, folder).fit(checkpoint, images)
    print(folder)


@dataclass(frozen=True)
class Run:
    """A resolved training configuration and the folder that holds what comes of it."""

    config: dict[str, Any]
    folder: Path

    def fit(self, checkpoint: Path | None, read: Images | None = None) -> None:
        """Train to the last step, from a checkpoint where there is one.

        `read` is the training set, if it was read before. SystemExit(128 + signal) after a stop
        by signal, the checkpoint written.
        """
        settings = typed(TrainerSettings, "trainer", self.config["trainer"])
        fabric_of(asdict(settings), "trainer.")
        source: Source = build("dataset", self.config["dataset"])
        images = read or source.split("train")
        module = self.module(images, settings)
        averages = {k: typed(EmaSettings, f"ema.{k}", v) for k, v in self.config["ema"].items()}
        ema = Ema(averages)
        saver = CheckpointSaver(
            self.folder / "checkpoints", settings.save_every, settings.snapshot_every
        )
        reporter = Reporter(settings.log_every)
        callbacks = [ema, *self.previews(ema, module, images), saver, reporter]
        trainer = self.trainer(settings, callbacks)
        data = DataModule(
            images,
            source.flip,
            settings.batch_size,
            self.config["seed"],
            settings.accumulate,
            settings.max_steps,
            settings.workers,
        )
        try:
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        finally:
            finish(trainer.loggers)
        # Another status than 0 of another rank would have Lightning kill this one, working or not.
        if saver.stopped and trainer.is_global_zero:
            raise SystemExit(128 + saver.stopped)

    def module(self, images: Images, settings: TrainerSettings) -> Module:
        """The LightningModule, its weights drawn from the seed."""
        model, num_classes = settings_of(self.config), len(self.classes(images))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config["seed"])
            objective = objective_of(self.config, shape_of(images), num_classes)
        if self.config["channels_last"]:
            objective.learner.network.to(memory_format=torch.channels_last)
        if self.config["compile"]:
            objective.learner.network.compile()
        pixel_range = range_of(model.range, images)
        return Module(
            objective,
            pixel_range,
            typed(OptimizerSettings, "optimizer", self.config["optimizer"]),
            self.header(pixel_range, images),
            seed=self.config["seed"],
            batch_size=settings.batch_size,
            num_classes=num_classes,
            label_dropout=model.label_dropout,
            dequantise=model.dequantise,
            channels_last=self.config["channels_last"],
        )

    def header(self, pixel_range: Range, images: Images) -> dict[str, Any]:
        """What a checkpoint of this run says of itself, plain data."""
        return {
            "format": FORMAT,
            "version": __version__,
            "recipe": self.config,
            "range": {"shift": pixel_range.shift, "scale": pixel_range.scale},
            "shape": list(shape_of(images)),
            "classes": list(self.classes(images)),
        }

    def classes(self, images: Images) -> tuple[str, ...]:
        """The names of the classes that the model learns, () where it learns none."""
        return images.classes if self.config["model"].get("labels", True) else ()

    def previews(self, ema: Ema, module: Module, images: Images) -> list[L.Callback]:
        """The callback that draws sample grids; none of a classifier, or where every is 0."""
        model = settings_of(self.config)
        if not isinstance(model, ModelSettings):
            return []
        preview = typed(PreviewSettings, "preview", self.config["preview"])
        if not preview.every:
            return []
        options = dict(preview.sampler)
        steps = options.pop("steps")
        sampler = build("sampler", options)
        schedule = module.denoiser.schedule
        count, classes = preview.num_samples, len(self.classes(images))
        shown = PreviewImages(
            sampler=sampler,
            times=times_of(model, schedule, spacing_of(model, schedule, sampler, steps), steps),
            start=STARTS[start_of(model, sampler)],
            shape=shape_of(images),
            labels=torch.arange(count) % classes if classes else None,
            num_samples=count,
            clip=model.clip,
        )
        return [Preview(self.folder / "previews", ema, preview.every, shown)]

    def trainer(self, settings: TrainerSettings, callbacks: list[L.Callback]) -> L.Trainer:
        """Lightning's Trainer for these settings."""
        return L.Trainer(
            max_steps=settings.max_steps,
            accelerator=settings.accelerator,
            devices=settings.devices,
            strategy=strategy_of(settings.devices),
            precision=settings.precision,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.clip,
            callbacks=callbacks,
            plugins=[SealedCheckpointIO(seal)],
            logger=logger_of(self.config["logger"], self.folder, self.config),
            default_root_dir=self.folder,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
