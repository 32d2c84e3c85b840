"""What can be told of a sweep's jobs before the first one starts; UsageError if one is wrong."""

import torch

from diffgen.config.schema import Sample, Train
from diffgen.evaluation.metrics import check
from diffgen.runtime.logger import ready
from diffgen.sampling.request import request_of


def train(settings: Train) -> None:
    """Nothing more than reading the settings has told."""


def sample(settings: Sample) -> None:
    """Makes all that a job of sampling calls, from the checkpoint to the sampler."""
    check(settings.metrics)
    ready(settings.logger)
    task, _ = request_of(settings).task(torch.device("cpu"))
    task.content  # noqa: B018 (it opens the pictures)
