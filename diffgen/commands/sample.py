"""`diffgen sample`: a checkpoint in; images, figures and a table of a sweep out."""

import json
import logging
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from torch import Tensor

from diffgen import __version__
from diffgen.config.build import changed
from diffgen.evaluation.metrics import check
from diffgen.runs.cell import Cell
from diffgen.runtime.devices import fabric_of
from diffgen.runtime.launch import quiet
from diffgen.runtime.logger import ready
from diffgen.sampling.evaluator import Judge, features_name, judge_of
from diffgen.sampling.plan import Request
from diffgen.sampling.report import NOTE, publish
from diffgen.task.files import keep
from diffgen.training.saving import write_atomically

log = logging.getLogger(__name__)


def sample(cfg: DictConfig) -> None:
    """Do one cell: draw its images, score them, and put both into the job's folder."""
    quiet()
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    if job.mode != RunMode.MULTIRUN:  # of a sweep it is known
        ready(config["logger"])
    fabric = fabric_of(config)
    fabric.launch()
    cells = Job(config, fabric).cells()
    if fabric.global_rank:
        return
    keep_links(cells[0], folder)
    told = {"cells": [str(cell.folder.resolve()) for cell in cells], "logger": config["logger"]}
    write_atomically(folder / NOTE, lambda file: file.write(json.dumps(told).encode()))
    if job.mode != RunMode.MULTIRUN:
        publish(folder, [folder])


def finish_sweep(folder: Path) -> None:
    """Make the table of a sweep from the cells that its jobs finished."""
    jobs = [path.parent for path in folder.glob(f"*/{NOTE}")]
    publish(folder, sorted(jobs, key=lambda job: (len(job.name), job.name)))


class Job:
    """One request on its devices."""

    def __init__(self, config: dict[str, Any], fabric: Fabric) -> None:
        self.config, self.fabric, self.request = config, fabric, Request(config)
        check(config["metrics"])
        self.task, self.counters = self.request.task(fabric.device)
        self.labels = self.task.classes()
        self.metrics = self.telling(config["metrics"])

    def cells(self) -> list[Cell]:
        """The cell asked for, done, and that of the table's floor where there is one."""
        run = self.request.checkpoint.run
        judge = self.judge()
        cell = Cell.of(run, self.identity(judge))
        if not cell.done(self.metrics):
            self.fill(cell, judge)
        floor = None
        if judge and self.task.scored and self.fabric.global_rank == 0:
            floor = judge.floor(run, self.count(judge), self.metrics)
        return [cell] if floor is None else [cell, floor]

    def telling(self, metrics: list[str]) -> list[str]:
        """Those of the metrics that say something of the task's images.

        Of an edit that is whether a classifier still sees the picture's class.
        """
        if self.task.scored:
            return metrics
        dataset = self.request.checkpoint.recipe["dataset"]["name"]
        named = features_name(self.config["features"], dataset) == "classifier"
        return [
            name for name in metrics if name == "accuracy" and named and self.labels is not None
        ]

    def judge(self) -> Judge | None:
        """What scores the images; None where no metrics are asked for."""
        if not self.metrics:
            return None
        config = self.config
        with self.fabric.rank_zero_first():  # the others find in the cache what it has made
            return judge_of(
                self.request.checkpoint,
                config["features"],
                config["cache"],
                config["root"],
                str(self.fabric.device),
            )

    def count(self, judge: Judge) -> int:
        """How many images a row counts."""
        if not self.task.scored:
            return self.task.count
        return judge.sample_count(self.config["num_samples"], self.config["n"])

    def identity(self, judge: Judge | None) -> dict[str, Any]:
        """What this cell's images and figures depend on, plain data."""
        request, config, content = self.request, self.config, self.task.content
        sampler = {"name": config["sampler"]["name"], **asdict(request.sampler)}  # type: ignore
        return {
            "version": __version__,  # another one's samplers may not be the same
            "checkpoint": request.checkpoint.hash,
            "ema": request.ema,
            "sampler": sampler,
            "times": request.times.tolist(),
            "start": request.start,
            "guidance": request.guides.identity(),
            "clip": request.clip,
            "task": {**config["task"], **({"content": content} if content else {})},
            "seed": config["seed"],
            "num_samples": config["num_samples"],
            "labels": config["labels"],
            "precision": config["precision"],
            "deterministic": config["deterministic"],
            **({"n": self.count(judge), **judge.identity()} if judge else {}),
        }

    def fill(self, cell: Cell, judge: Judge | None) -> None:
        """Draw the images that are missing, score them, and write the cell."""
        row, labels, kept = cell.row, self.labels, cell.images()
        if row is None or kept is None:
            images, cost = self.draw()
            if self.fabric.global_rank:
                return
            cell.keep_images(images, labels, len(self.request.guides.classes))
            keep(self.task.files(images), cell.folder)
        else:
            images, cost = kept[0], {k: row[k] for k in ("nfe", "seconds", "images_per_second")}
        if self.fabric.global_rank:
            return
        scored: dict[str, Any] = {}
        if judge:
            n = self.count(judge)
            scored = judge.row(images[:n], None if labels is None else labels[:n], self.metrics)
        cell.keep_row({**self.settings(), **cost, **scored, "metrics": self.metrics})

    def draw(self) -> tuple[Tensor, dict[str, float]]:
        """Images uint8 (count, C, H, W), shared among the devices, and what they cost."""
        total, ranks = self.task.count, self.fabric.world_size
        share = -(-total // ranks)
        mine = torch.arange(self.fabric.global_rank * share, share * (1 + self.fabric.global_rank))
        warning = self.request.sampler.warning(
            self.request.base.schedule, len(self.request.times) - 1
        )
        if warning and self.fabric.global_rank == 0:
            log.warning(warning)
        parts, start = [], time.monotonic()
        batches = mine.clamp(max=total - 1).split(self.config["batch_size"])
        console = Console(stderr=True)
        for part in track(
            batches, "sampling", console=console, transient=True, disable=not console.is_terminal
        ):
            with self.fabric.autocast():
                parts.append(self.task(part.tolist(), self.fabric.device))
        seconds = time.monotonic() - start
        images: Any = self.fabric.all_gather(torch.cat(parts))
        nfe = sum(counter.rows for counter in self.counters) / share
        cost = {"seconds": seconds, "images_per_second": total / seconds, "nfe": round(nfe, 2)}
        return images.reshape(-1, *self.task.shape)[:total].cpu(), cost

    def settings(self) -> dict[str, Any]:
        """The columns of a row that say how its images were made."""
        request, guidance = self.request, self.config["guidance"]
        weight = guidance.get("weight") if request.guides.name else None
        return {
            "checkpoint": request.checkpoint.run.name,
            "checkpoint_hash": request.checkpoint.hash[:12],
            "step": request.checkpoint.step,
            "ema": request.ema,
            "sampler": self.config["sampler"]["name"],
            "settings": changed(request.sampler),
            "steps": request.steps,
            "spacing": request.spacing,
            "start": request.start,
            "clip": request.clip,
            "guidance": request.guides.name,
            "weight": weight,
            "scale": None if weight is None else 1 + weight,
            "labels": self.config["labels"],
            "seed": self.config["seed"],
            "numeric_precision": self.config["precision"],
            "versions": {
                "diffgen": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }


def keep_links(cell: Cell, folder: Path) -> None:
    """Let the job's folder hold its cell's pictures, too, without a second copy on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in cell.folder.rglob("*"):
        name = path.relative_to(cell.folder)
        if path.is_file() and path.name != "result.json":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).unlink(missing_ok=True)
            try:
                os.link(path, folder / name)
            except OSError:  # another file system
                (folder / name).symlink_to(path.resolve())
