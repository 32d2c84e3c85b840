"""What can be told of a sweep's jobs before the first one starts; UsageError if one is wrong."""

from typing import Any

import torch

from diffgen.commands.data_dependent import waiting
from diffgen.config.build import build, typed
from diffgen.config.classifier_recipe import settings_of
from diffgen.config.recipe import ModelSettings, TrainerSettings, check_fit
from diffgen.evaluation.metrics import check
from diffgen.runtime.logger import ready
from diffgen.sampling.plan import Request
from diffgen.training.ema import EmaSettings
from diffgen.training.optimizer import OptimizerSettings


def train(config: dict[str, Any]) -> None:
    """Reads every setting of a training run that needs no data set."""
    typed(TrainerSettings, "trainer", config["trainer"])
    typed(OptimizerSettings, "optimizer", config["optimizer"])
    model = settings_of(config)
    for name, profile in config["ema"].items():
        typed(EmaSettings, f"ema.{name}", profile)
    if not waiting(config):
        schedule = build("schedule", config["schedule"])
        if isinstance(model, ModelSettings):
            check_fit(model, schedule)


def sample(config: dict[str, Any]) -> None:
    """Makes all that a job of sampling calls, from the checkpoint to the sampler."""
    check(config["metrics"])
    ready(config["logger"])
    task, _ = Request(config).task(torch.device("cpu"))
    task.content  # noqa: B018 (it opens the pictures)
