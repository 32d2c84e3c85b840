"""A sampling request: a checkpoint and the settings of `diffgen sample`, made into objects."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffgen.config.build import build, changed, nearest, typed
from diffgen.config.recipe import ModelSettings, check_spacing, spacing_of, start_of, times_of
from diffgen.denoiser.base import Clipped, Denoiser, Preconditioned, Thresholded
from diffgen.denoiser.evaluations import FixedShape, RowCount
from diffgen.errors import UsageError
from diffgen.guidance import checks
from diffgen.runs import tuned_times
from diffgen.runs.checkpoint import Checkpoint, locate, opened
from diffgen.sampler import Sampler
from diffgen.sampler.start import STARTS
from diffgen.sampler.tuned import check_tunable
from diffgen.sampling.guides import Guides, as_float
from diffgen.sampling.inputs import CheckpointInputs
from diffgen.task.base import Task

ROUNDING = {"bf16-mixed": 2**-8, "16-mixed": 2**-11}  # relative, of a network's numbers
CHUNK = 16  # rows a network sees at a time with deterministic=true


@dataclass(frozen=True)
class Request:
    """The resolved configuration of one job of `diffgen sample`."""

    config: dict[str, Any]

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint asked for."""
        return opened(locate(self.config["checkpoint"], Path(self.config["runs"])))

    @cached_property
    def ema(self) -> str:
        """The name of the weights that sample."""
        return self.checkpoint.average(self.config["ema"])

    @cached_property
    def model(self) -> ModelSettings:
        """What the checkpoint's recipe says of its model."""
        return typed(ModelSettings, "model", self.checkpoint.recipe["model"])

    @cached_property
    def sampler(self) -> Sampler:
        """The sampler, without its number of steps."""
        options = {k: v for k, v in self.config["sampler"].items() if k != "steps"}
        sampler = build("sampler", options)
        _check_tolerance(sampler, self.config.get("precision", "32-true"))
        return sampler

    @property
    def spacing(self) -> str:
        """The spacing asked for, `auto` replaced by the sampler's own."""
        name, steps = self.config["spacing"], self.config["sampler"]["steps"]
        if name != "auto":
            return name
        return spacing_of(self.model, self.base.schedule, self.sampler, steps)

    @cached_property
    def base(self) -> Preconditioned:
        """The checkpoint's denoiser on the CPU, in chunks of one shape if that was asked for."""
        denoiser = self.checkpoint.denoiser(self.ema)
        if self.config["compile"]:
            denoiser.network = _compiled(self.checkpoint.path, self.checkpoint.hash, self.ema)
        denoiser.network = self.prepared(denoiser.network)
        return denoiser

    def prepared(self, network: nn.Module) -> nn.Module:
        """A network as it is called: in chunks of one shape if that was asked for."""
        return FixedShape(network, CHUNK) if self.config["deterministic"] else network

    @cached_property
    def guides(self) -> Guides:
        """The guidance asked for."""
        settings, runs = self.config["guidance"], Path(self.config["runs"])
        return Guides(settings, self.checkpoint, self.model.label_dropout, self.prepared, runs)

    @cached_property
    def times(self) -> Tensor:
        """The times (steps + 1,) of the way back."""
        steps = self.config["sampler"]["steps"]
        if self.spacing == "tuned":
            few = times_of(self.model, self.base.schedule, "log_snr", 3)
            check_tunable(self.sampler.deterministic(), self.base.schedule, few)
            return tuned_times.kept(self.checkpoint, self.way, self.remedy)
        check_spacing(self.sampler, self.spacing)
        return times_of(self.model, self.base.schedule, self.spacing, steps)

    @property
    def steps(self) -> int | None:
        """The number of steps, None where the sampler chooses it for each image."""
        return len(self.times) - 1 if self.sampler.takes_steps else None

    @property
    def way(self) -> dict[str, Any]:
        """What tuned times depend on besides the checkpoint, plain data: fresh noise is off."""
        sampler = {"name": self.config["sampler"]["name"], **changed(self.sampler.deterministic())}
        return {
            "sampler": {key: as_float(value) for key, value in sampler.items()},
            "steps": self.config["sampler"]["steps"],
            "guidance": self.guides.identity() if self.guides.name else None,
            "clip": self.clip,
            "ema": self.ema,
        }

    @property
    def remedy(self) -> str:
        """The command that makes the tuned times which this request asks for."""
        return tuned_times.command(self.config, changed(self.sampler.deterministic()))

    @property
    def start(self) -> str:
        """What sampling starts from, `auto` replaced by what fits sampler and model."""
        name = self.config["start"]
        return start_of(self.model, self.sampler) if name == "auto" else name

    @property
    def clip(self) -> str:
        """What happens to estimates outside the range, `auto` replaced by the model's own."""
        name = self.config["clip"]
        if name == "auto":
            own = self.model.clip and self.sampler.clips_by_default
            return "range" if own else "none"
        return name

    def labels(self) -> tuple[int, ...] | None:
        """The labels asked for, which images take by turns; None where nobody asked."""
        asked, classes = self.config["labels"], self.guides.classes
        if asked == "balanced":
            return None
        return tuple(checks.find_labels(asked if isinstance(asked, list) else [asked], classes))

    def task(self, device: torch.device) -> tuple[Task, list[RowCount]]:
        """What makes the images on a device, and the counters of the networks it calls."""
        base = self.base.to(device)
        counter = RowCount(base.network)
        guided, counters = self.guides.over(base, device)
        task = build(
            "task",
            self.config["task"],
            denoiser=CLIPS[self.clip](guided, self.checkpoint),
            sampler=self.sampler,
            times=self.times,
            start=_named(STARTS, "start", self.start),
            pixel_range=self.checkpoint.range,
            shape=self.checkpoint.shape,
            seed=self.config["seed"],
            num_samples=self.config["num_samples"],
            labels=self.labels(),
            num_classes=len(self.guides.classes),
            inputs=CheckpointInputs(self.checkpoint, self.config["root"]),
        )
        if task.unconditional and self.checkpoint.classes and not self.model.label_dropout:
            raise UsageError("this checkpoint never learned to do without a label: give labels=")
        return task, [counter, *counters]


@lru_cache(maxsize=2)
def _compiled(path: Path, content: str, ema: str) -> Any:
    """A checkpoint's network, compiled once for all jobs of a process."""
    return torch.compile(opened(path).denoiser(ema).network)


def _check_tolerance(sampler: Sampler, precision: str) -> None:
    """UsageError where rounding would keep an adaptive sampler from ever arriving."""
    asked, rounding = getattr(sampler, "tolerance", math.inf), ROUNDING.get(precision, 0.0)
    if asked < rounding:
        raise UsageError(
            f"sampler.tolerance={asked:g} is finer than precision={precision} resolves: take "
            f"precision=32-true, or a tolerance of at least {rounding:g}"
        )


def _named(table: dict[str, Any], key: str, name: str) -> Any:
    if name not in table:
        raise UsageError(f"no {key}={name}{nearest(name, table)}")
    return table[name]


CLIPS: dict[str, Callable[[Denoiser, Checkpoint], Denoiser]] = {
    "none": lambda denoiser, _: denoiser,
    "range": lambda denoiser, of: Clipped(denoiser, of.range.low, of.range.high),
    "dynamic": lambda denoiser, of: Thresholded(denoiser, of.range.low, of.range.high),
}
