"""One cell of `diffgen sample` on its devices: drawn, scored and kept."""

import logging
import platform
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from diffgen import __version__
from diffgen.commands.drawing import Drawing
from diffgen.config.schema import Sample
from diffgen.dataset.pixels import save_pictures
from diffgen.evaluation.metrics import metric_names
from diffgen.runs.cell import Cell, name_of
from diffgen.runs.drawn_batches import DrawnBatches
from diffgen.runs.locate import name_under
from diffgen.runs.plain_images import plain_images
from diffgen.sampling.evaluator import Evaluator, evaluator_of, features_name
from diffgen.sampling.request import request_of

log = logging.getLogger(__name__)

BATCHES = "batches"  # of a cell that is being drawn
COST = ("nfe", "seconds", "images_per_second")


class SamplingJob:
    """One request on its devices."""

    def __init__(self, settings: Sample, fabric: Fabric) -> None:
        self.settings, self.fabric, self.request = settings, fabric, request_of(settings)
        self.task, self.counters = self.request.task(fabric.device)
        self.labels = self.task.classes()
        self.metrics = self.applicable(metric_names(settings.metrics))
        out = settings.out
        self.out = None if out is None else plain_images(out, settings.format)

    def run(self) -> list[Cell]:
        """Draw and score what is missing; the cell, and that of the row of real images if any."""
        evaluator = self.evaluator()
        cell = self.cell(evaluator)
        if self.out:
            self.out.check(name_of(self.drawn_key))
        if self.fabric.global_rank == 0:
            cell.take_drawn(self.drawn_key, self.request.guides.classes, {BATCHES})
        if self.fabric.broadcast(not cell.done(self.metrics)):
            self.draw_and_score(cell, evaluator)
        if self.out and self.fabric.global_rank == 0:
            self.out.write(cell, name_of(self.drawn_key), self.request.guides.classes)
        floor = None
        if evaluator and self.task.scored and self.fabric.global_rank == 0:
            run, runs = self.request.checkpoint.run, Path(self.settings.runs)
            floor = evaluator.floor(run, runs, self.count(evaluator), self.metrics)
        return [cell] if floor is None else [cell, floor]

    def applicable(self, metrics: list[str]) -> list[str]:
        """Those of the metrics that apply to the task.

        Of an edit that is whether a classifier still sees the picture's class.
        """
        if self.task.scored:
            return metrics
        dataset = self.request.checkpoint.recipe["dataset"]["name"]
        sees = features_name(self.settings.features, dataset) == "classifier"
        return [
            each for each in metrics if each == "accuracy" and sees and self.labels is not None
        ]

    def evaluator(self) -> Evaluator | None:
        """What scores the images; None where no metrics are asked for."""
        if not self.metrics:
            return None
        settings, device = self.settings, str(self.fabric.device)
        kept = settings.features, settings.cache, settings.root
        with self.fabric.rank_zero_first():  # the others find in the cache what it has made
            evaluator = evaluator_of(self.request.checkpoint, *kept, device)
        return evaluator.for_labels(self.labels) if self.task.scored else evaluator

    def count(self, evaluator: Evaluator) -> int:
        """How many images a row counts."""
        if not self.task.scored:
            return self.task.count
        settings = self.settings
        return evaluator.sample_count(settings.num_samples, settings.n, self.metrics, self.labels)

    @cached_property
    def drawn_key(self) -> dict[str, Any]:
        """What this cell's images depend on, plain data."""
        settings, content = self.settings, self.task.content
        return {
            "version": __version__,  # another version may sample differently
            **self.request.exact(),
            "task": {**settings.task.plain(), **({"content": content} if content else {})},
            "seed": settings.seed,
            "num_samples": settings.num_samples,
            "deterministic": settings.deterministic,
        }

    def cell(self, evaluator: Evaluator | None) -> Cell:
        """The place of these images and of their figures by this evaluator."""
        scored = {"n": self.count(evaluator), **evaluator.identity()} if evaluator else {}
        runs = Path(self.settings.runs)
        return Cell.of(self.request.checkpoint.run, self.drawn_key | scored, runs)

    def draw_and_score(self, cell: Cell, evaluator: Evaluator | None) -> None:
        """Draw the images that are missing, keep them, score them, and write the cell."""
        row, kept = cell.row, cell.images()
        drawn = row is not None and kept is not None
        if not self.fabric.broadcast(drawn):
            row, kept = self.draw(cell)
        if self.fabric.global_rank or row is None or kept is None:
            return
        images, labels = kept
        if not cell.sheet.is_file():
            cell.keep_images(images, labels, self.request.guides.classes)
        scores: dict[str, Any] = {}
        if evaluator:
            n = self.count(evaluator)
            labels = None if labels is None else labels[:n]
            scores = evaluator.row(images[:n], labels, self.metrics, cell.folder)
        cost = {key: row[key] for key in COST}
        cell.keep_row({**self.columns(), **cost, **scores, "metrics": self.metrics})

    def draw(self, cell: Cell) -> tuple[dict[str, Any], tuple[Tensor, Tensor | None]]:
        """Draw the images and keep them in the cell with a row that has no scores; both.

        Batches that an interrupted call finished are not drawn again.
        """
        warning = self.request.plan.warning(self.request.schedule)
        if warning and self.fabric.global_rank == 0:
            log.warning(warning)
        batches = DrawnBatches(cell.folder / BATCHES, self.task.shape)
        drawing = Drawing(self.task, self.counters, self.fabric, batches)
        images, cost = drawing(self.settings.batch_size)
        row = {**self.columns(), **cost, "metrics": []}
        if self.fabric.global_rank == 0:
            cell.keep_row(row)  # before the images: without them it marks nothing as done
            cell.keep_images(images, self.labels, self.request.guides.classes)
            save_pictures(self.task.files(images), cell.folder)
            cell.tell_drawn(self.drawn_key)
            batches.remove()
        return row, (images, self.labels)

    def columns(self) -> dict[str, Any]:
        """The columns of a row that say how its images were made."""
        identity = self.request.identity()
        weight = identity["weight"]
        return {
            **identity,
            "identity": list(identity),
            "checkpoint_hash": self.request.checkpoint.hash[:12],
            "run": name_under(self.request.checkpoint.run, Path(self.settings.runs)),
            "recipe": self.request.checkpoint.recipe,
            "scale": None if weight is None else 1 + weight,
            "seed": self.settings.seed,
            "versions": {
                "diffgen": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
