"""A request of `diffgen sample` or `diffgen tune`: a checkpoint and settings made into objects."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from diffgen.config.build import changed
from diffgen.config.parts import SamplerSettings
from diffgen.config.recipe import ModelSettings
from diffgen.config.schema import Identity, Sampling
from diffgen.dataset.random_choices import in_shares
from diffgen.denoiser.base import Preconditioned
from diffgen.denoiser.evaluations import FixedShape, RowCount
from diffgen.errors import UsageError
from diffgen.guidance import checks
from diffgen.runs import tuned_times
from diffgen.runs.checkpoint import Checkpoint
from diffgen.runs.pinned import open_checkpoint
from diffgen.sampler import Sampler
from diffgen.sampler.tuned import check_tunable
from diffgen.sampling.guides import Guides, as_float
from diffgen.sampling.inputs import CheckpointInputs, training_labels
from diffgen.sampling.plan import SamplingPlan, plan_of, times_of
from diffgen.schedule import Schedule
from diffgen.task.base import Task

ROUNDING = {"bf16-mixed": 2**-8, "16-mixed": 2**-11}  # relative, of a network's numbers
# Of the identity, what tuned times serve any value of, or what another entry holds already.
UNTUNED = (
    *("checkpoint", "step", "spacing", "start", "numeric_precision", "labels"),
    *("settings", "weight"),
)
CHUNK = 16  # rows a network sees at a time with deterministic=true


@dataclass(frozen=True)
class Request:
    """One job of a command that samples, its settings read and its checkpoint open.

    ema: the name of the weights; sampler: the settings in force, a checkpoint's own resolved.
    """

    settings: Sampling
    checkpoint: Checkpoint
    model: ModelSettings
    schedule: Schedule
    ema: str
    sampler: SamplerSettings
    guides: Guides
    plan: SamplingPlan

    def identity(self) -> dict[str, Any]:
        """What tells this way of sampling from another, plain data as a table shows it.

        Cells, tables, guidance sheets and tuned times tell ways apart by it: an entry for each
        key of `Sampling` that is marked, with `auto` and the like replaced.
        """
        found: dict[str, Any] = {
            "checkpoint": self.checkpoint.run.name,
            "step": self.checkpoint.step,
        }
        plan, guidance = self.plan, self.settings.guidance
        resolved = {
            "ema": {"ema": self.ema},
            "sampler": {"sampler": self.sampler.name, "settings": changed(plan.sampler)},
            "guidance": {
                "guidance": self.guides.name,
                "weight": guidance.weight if self.guides.name else None,
            },
            "steps": {"steps": plan.steps},
            "spacing": {"spacing": plan.spacing},
            "start": {"start": plan.start_name},
            "clip": {"clip": plan.clip},
            "precision": {"numeric_precision": self.settings.precision},
            "labels": {"labels": self._named_labels()},
        }
        for key, field in type(self.settings).model_fields.items():
            if Identity in field.metadata:
                found |= resolved.get(key, {key: getattr(self.settings, key)})
        return found

    def _named_labels(self) -> str | list[str]:
        """The classes asked for by their names, whichever way they were typed."""
        labels, classes = self.settings.labels, self.guides.classes
        if labels in ("balanced", "data") and labels not in classes:
            return str(labels)
        return [classes[label] for label in labels_of(labels, classes) or ()]

    def exact(self) -> dict[str, Any]:
        """The same to the last bit, for the key of a cell: contents in the place of names."""
        identity, made_of = self.identity(), self.checkpoint.made_of(self.ema)
        return {
            **identity,
            "weight": as_float(identity["weight"]),
            "checkpoint": self.checkpoint.hash,
            "sampler": {"name": self.sampler.name, **asdict(cast(Any, self.plan.sampler))},
            "times": self.plan.times.tolist(),
            "guidance": self.guides.identity(),
            **({"made_of": made_of} if len(made_of) > 1 else {}),
        }

    def denoiser(self) -> Preconditioned:
        """The checkpoint's denoiser on the CPU, in chunks of one shape if that was asked for."""
        made = _shared(self.checkpoint, self.ema, self.settings.compile)
        network = prepared(made.network, self.settings.deterministic)
        rules = made.schedule, made.prediction, made.noise_input, made.learns_variance
        return Preconditioned(network, *rules).eval()

    def labels(self) -> tuple[int, ...] | None:
        """The labels that images take by turns; None for all classes alike."""
        labels, classes = self.settings.labels, self.guides.classes
        if labels != "data" or "data" in classes:
            return labels_of(labels, classes)
        checks.find_labels([], classes)
        found = training_labels(self.checkpoint, self.settings.root)
        return tuple(in_shares(found, self.settings.num_samples).tolist())

    def task(self, device: torch.device) -> tuple[Task, list[RowCount]]:
        """What makes the images on a device, and the counters of the networks it calls."""
        base, settings = self.denoiser().to(device), self.settings
        base.network = counter = RowCount(base.network)
        guided, counters = self.guides.over(base, device)
        task = settings.task.build(
            denoiser=self.plan.clipped(guided, self.checkpoint.range),
            sampler=self.plan.sampler,
            times=self.plan.times,
            start=self.plan.start,
            pixel_range=self.checkpoint.range,
            shape=self.checkpoint.shape,
            seed=settings.seed,
            num_samples=settings.num_samples,
            labels=self.labels(),
            num_classes=len(self.guides.classes),
            levels_only=self.model.noise_input == "index",
            inputs=CheckpointInputs(self.checkpoint, settings.root),
        )
        if task.unconditional and self.checkpoint.classes and not self.model.label_dropout:
            raise UsageError("this checkpoint never learned to do without a label: give labels=")
        return task, [counter, *counters]


def request_of(settings: Sampling) -> Request:
    """The request of a command's settings; UsageError where they do not fit the checkpoint."""
    runs = Path(settings.runs)
    checkpoint = open_checkpoint(settings.checkpoint, runs, settings.trust)
    recipe = checkpoint.denoiser_recipe()
    model, schedule = recipe.model, recipe.built_schedule
    ema = checkpoint.average(settings.ema)
    chosen = settings.sampler.resolved(checkpoint.recipe, checkpoint.trust)
    sampler = chosen.build()
    _check_tolerance(sampler, settings.precision)
    prepare = partial(prepared, deterministic=settings.deterministic)
    guides = Guides(settings.guidance, checkpoint, model.label_dropout, prepare, runs)

    def with_spacing(spacing: str, tuned: Callable[[], Tensor] | None = None) -> Request:
        plan = plan_of(
            *(sampler, chosen.steps, model, schedule),
            spacing=spacing,
            start=settings.start,
            clip=settings.clip,
            tuned=tuned,
        )
        return Request(settings, checkpoint, model, schedule, ema, chosen, guides, plan)

    def tuned() -> Tensor:
        check_tunable(sampler.deterministic(), schedule, times_of(model, schedule, "log_snr", 3))
        remedy = tuned_times.command(settings, chosen, changed(sampler.deterministic()))
        return tuned_times.read(checkpoint, tuned_key(with_spacing("auto")), runs, remedy)

    spacing = chosen.spacing if settings.spacing == "auto" else settings.spacing
    return with_spacing(spacing, tuned)


def tuned_key(request: Request) -> dict[str, Any]:
    """What tuned times depend on besides the checkpoint, plain data.

    The identity but for UNTUNED, with the noise of the sampler off and contents in the place of
    names.
    """
    found = {key: value for key, value in request.identity().items() if key not in UNTUNED}
    sampler = {"name": found["sampler"], **changed(request.plan.sampler.deterministic())}
    return found | {
        "sampler": {key: as_float(value) for key, value in sampler.items()},
        "steps": request.sampler.steps,
        "guidance": request.guides.identity() if found["guidance"] else None,
    }


def labels_of(
    labels: str | int | list[str | int], classes: tuple[str, ...]
) -> tuple[int, ...] | None:
    """The labels that images take by turns, by number; None for all classes alike."""
    if labels == "balanced" and labels not in classes:
        return None
    return tuple(checks.find_labels(labels if isinstance(labels, list) else [labels], classes))


def prepared(network: nn.Module, deterministic: bool) -> nn.Module:
    """A network as it is called: in chunks of one shape if that was asked for."""
    return FixedShape(network, CHUNK) if deterministic else network


@lru_cache(maxsize=2)
def _shared(checkpoint: Checkpoint, ema: str, compiled: bool) -> Preconditioned:
    """A checkpoint's denoiser, made and compiled once for all jobs of a process."""
    denoiser = checkpoint.denoiser(ema)
    if compiled:
        denoiser.network = torch.compile(denoiser.network)  # pyright: ignore[reportAttributeAccessIssue]
    return denoiser


def _check_tolerance(sampler: Sampler, precision: str) -> None:
    """UsageError where rounding would keep an adaptive sampler from ever arriving."""
    tolerance, rounding = getattr(sampler, "tolerance", math.inf), ROUNDING.get(precision, 0.0)
    if tolerance < rounding:
        raise UsageError(
            f"sampler.tolerance={tolerance:g} is finer than precision={precision} resolves: take "
            f"precision=32-true, or a tolerance of at least {rounding:g}"
        )
