"""What can be told of a sweep's jobs before the first one starts; UsageError if one is wrong."""

import math
from typing import Any

import torch

from diffgen.build import build, typed
from diffgen.classifier_recipe import settings_of
from diffgen.errors import UsageError
from diffgen.evaluation.metrics import check
from diffgen.recipe import TrainerSettings
from diffgen.request import Request
from diffgen.resolve import waiting
from diffgen.sampler import Sampler
from diffgen.training.ema import Profile
from diffgen.training.logger import ready
from diffgen.training.optimizer import OptimizerSettings

ROUNDING = {"bf16-mixed": 2**-8, "16-mixed": 2**-11}  # relative, of the network's numbers


def train(config: dict[str, Any]) -> None:
    """Reads every setting of a training run that needs no data set."""
    typed(TrainerSettings, "trainer", config["trainer"])
    typed(OptimizerSettings, "optimizer", config["optimizer"])
    settings_of(config)
    for name, profile in config["ema"].items():
        typed(Profile, f"ema.{name}", profile)
    if not waiting(config):
        build("schedule", config["schedule"])


def sample(config: dict[str, Any]) -> None:
    """Makes all that a job of sampling calls, from the checkpoint to the sampler."""
    check(config["metrics"])
    ready(config["logger"])
    request = Request(config)
    _check_tolerance(request.sampler, config["precision"])
    task, _ = request.task(torch.device("cpu"))
    task.content  # noqa: B018 (it opens the pictures)


def _check_tolerance(sampler: Sampler, precision: str) -> None:
    """UsageError where rounding would keep an adaptive sampler from ever arriving."""
    asked, rounding = getattr(sampler, "tolerance", math.inf), ROUNDING.get(precision, 0.0)
    if asked < rounding:
        raise UsageError(
            f"sampler.tolerance={asked:g} is finer than precision={precision} resolves: take "
            f"precision=32-true, or a tolerance of at least {rounding:g}"
        )
