"""`diffgen sample`: a checkpoint in; images, figures and a table of a sweep out."""

import json
import logging
import shlex
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from diffgen.commands.sampling_job import BATCHES, SamplingJob
from diffgen.config.schema import Sample
from diffgen.evaluation.metrics import metric_names
from diffgen.files import place, write_text
from diffgen.runs.cell import Cell
from diffgen.runs.plain_images import plain_images
from diffgen.runtime.devices import fabric_of, fabric_to_ask
from diffgen.runtime.launch import quiet, say_ready
from diffgen.runtime.logger import ready
from diffgen.sampling.evaluator import check_features
from diffgen.sampling.publishing import NOTE, named_from, publish
from diffgen.sampling.request import request_of

log = logging.getLogger(__name__)


def sample(settings: Sample) -> None:
    """Do one cell: draw its images, score them, and put both into the job's folder."""
    quiet()
    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    if job.mode != RunMode.MULTIRUN:  # of a sweep it is known
        ready(settings.logger)
    fabric = fabric_of(settings.plain)
    say_ready()
    fabric.launch()
    job_on_devices = SamplingJob(settings, fabric)
    try:
        cells = job_on_devices.run()
    except (KeyboardInterrupt, SystemExit):
        if job.mode != RunMode.MULTIRUN and fabric.global_rank == 0:
            log.warning("go on with: %s", command(job_on_devices.request.checkpoint.path))
        raise
    if fabric.global_rank:
        return
    put(cells, folder, settings)
    if job.mode != RunMode.MULTIRUN:
        publish(folder, [folder])


def put(cells: list[Cell], folder: Path, settings: Sample) -> None:
    """Let the folder of a job hold the pictures of its cell and name its cells."""
    folder.mkdir(parents=True, exist_ok=True)
    place(cells[0].folder, folder, leave={"result.json", BATCHES})
    logger = {"name": settings.logger.name, **settings.logger.settings}
    note = {
        "cells": [named_from(folder, cell) for cell in cells],
        "logger": logger,
        "config": settings.plain,
    }
    write_text(folder / NOTE, json.dumps(note))


def kept(settings: Sample, folder: Path) -> bool:
    """Whether an earlier call did all of a job; its folder is then made, and no job is needed."""
    fabric = fabric_to_ask(settings.accelerator, str(settings.devices), settings.precision)
    if fabric.world_size > 1:
        return False
    job = SamplingJob(settings, fabric)
    if not job.cell(job.evaluator()).done(job.metrics):
        return False
    put(job.run(), folder, settings)
    return True


def command(checkpoint: Path) -> str:
    """The words of the running command, as they are typed, with this checkpoint named."""
    words = [word for word in HydraConfig.get().overrides.task if word[:11] != "checkpoint="]
    return shlex.join(["diffgen", "sample", f"checkpoint={checkpoint}", *words])


def preflight(settings: Sample) -> None:
    """Make all that a job of sampling calls; UsageError where something does not fit."""
    metrics = metric_names(settings.metrics)
    ready(settings.logger)
    if settings.out is not None:
        plain_images(settings.out, settings.format).check()
    request = request_of(settings)
    if metrics:
        check_features(settings.features, request.checkpoint)
    task, _ = request.task(torch.device("cpu"))
    task.content  # noqa: B018 (it opens the pictures)


def finish_sweep(folder: Path) -> None:
    """Make the table of a sweep from the cells that its jobs finished."""
    jobs = [path.parent for path in folder.rglob(NOTE)]
    publish(folder, sorted(jobs, key=lambda job: (len(str(job)), str(job))))
