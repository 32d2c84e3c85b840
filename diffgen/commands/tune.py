"""`diffgen tune`: the times at which so many steps of a sampler err least on a checkpoint's model.

Evaluations are shown beside each error, since steps of one number may cost different ones.
"""

from functools import cached_property
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffgen import __version__
from diffgen.config.schema import Tune
from diffgen.errors import UsageError
from diffgen.runs import tuned_times
from diffgen.runs.pinned import open_checkpoint
from diffgen.runtime.devices import fabric_of
from diffgen.runtime.launch import quiet
from diffgen.sampler import tuned
from diffgen.sampling.request import request_of, tuned_key
from diffgen.schedule.spacing import SPACINGS
from diffgen.schedule.spacing import times as spaced

KEPT = ("num_samples", "candidates", "seed", "labels")  # settings that are written down


def tune(settings: Tune) -> None:
    """Find, show and keep the times of one way of sampling; their file is printed last."""
    quiet()
    machine = {"accelerator": settings.accelerator, "devices": 1, "precision": "32-true"}
    tuning = Tuning(settings, fabric_of(machine).device)
    times = tuning.found()
    costs = tuning.costs(times)
    show(tuning.title, costs)
    print(tuning.keep(times, costs))


def preflight(settings: Tune) -> None:
    """Make all that a job of tuning calls; UsageError where there is nothing to tune."""
    Tuning(settings, torch.device("cpu"))


class Tuning:
    """One way of sampling; UsageError where its sampler or its model leaves nothing to tune."""

    def __init__(self, settings: Tune, device: torch.device) -> None:
        self.settings, self.device, self.count = settings, device, settings.num_samples
        drawn = {"num_samples": 2 * self.count, "spacing": _spacing(settings)}
        self.request = request_of(settings.model_copy(update=drawn))
        steps, schedule = self.request.sampler.steps, self.request.schedule
        if self.request.model.noise_input == "index":
            raise UsageError(
                f"this network knows {schedule.levels} noise levels and nothing between them, so "
                "there are no times to tune"
            )
        self.sampler = self.request.plan.sampler.deterministic()
        self.candidates = spaced(schedule, "log_snr", settings.candidates)
        tuned.check_tunable(self.sampler, schedule, self.candidates)
        if not 0 < (steps or 0) <= settings.candidates:
            raise UsageError(
                f"steps={steps} of candidates={settings.candidates} times: take fewer steps "
                "or more candidates"
            )
        self.steps = steps or 0
        self.key = tuned_key(self.request)
        self.task, self.counters = self.request.task(device)
        self.denoiser = self.task.denoiser

    @property
    def title(self) -> str:
        """The sampler with its changed settings, and the steps."""
        sampler = self.key["sampler"]
        changed = [f"{key} {value}" for key, value in sampler.items() if key != "name"]
        return f"{sampler['name']}, {', '.join([*changed, f'{self.steps} steps'])}"

    @cached_property
    def fixed(self) -> dict[str, Tensor]:
        """The times of every fixed spacing that the schedule has for these steps."""
        found = {}
        for name in SPACINGS:
            try:
                found[name] = spaced(self.denoiser.schedule, name, self.steps)
            except UsageError:  # more steps than levels
                continue
        return found

    def starts(self, first: int) -> tuple[Tensor, Tensor | None]:
        """States (count, C, H, W) at t = 1 and labels, of the images from number `first`."""
        images, classes = range(first, first + self.count), self.task.classes()
        x = self.task.begin(self.task.blank(images, self.device), self.task.noise(images))
        return x, None if classes is None else classes[list(images)].to(self.device)

    def found(self) -> Tensor:
        """The times (steps + 1,) that err least on the first images."""
        x, label = self.starts(0)
        others = list(self.fixed.values())
        return tuned.tune(
            self.sampler, self.denoiser, x, self.candidates, self.steps, label, others
        )

    @torch.no_grad()
    def costs(self, times: Tensor) -> dict[str, tuple[float, float]]:
        """Error and evaluations per image of each fixed spacing and of `times`, on new images."""
        x, label = self.starts(self.count)
        path = tuned.solved(self.denoiser, x, self.candidates, label)
        found = {}
        for name, points in {**self.fixed, "tuned": times}.items():
            before = sum(counter.rows for counter in self.counters)
            error = tuned.miss(self.sampler, self.denoiser, path, points, label)
            rows = sum(counter.rows for counter in self.counters) - before
            found[name] = error, rows / len(x)
        return found

    def keep(self, times: Tensor, costs: dict[str, tuple[float, float]]) -> str:
        """Write the times with where they come from; the path of their file."""
        facts = {
            "nfe": costs["tuned"][1],
            "error": {name: error for name, (error, _) in costs.items()},
            **{key: self.settings.plain[key] for key in KEPT},
            "versions": {"diffgen": __version__, "torch": str(torch.__version__)},
        }
        where = self.request.checkpoint, self.key, Path(self.settings.runs)
        return str(tuned_times.write(*where, times, facts))


def _spacing(settings: Tune) -> str:
    """One that a sampler of any number of steps goes by, whatever the levels."""
    checkpoint = open_checkpoint(settings.checkpoint, Path(settings.runs), settings.trust)
    sampler = settings.sampler.resolved(checkpoint.recipe, checkpoint.trust).build()
    return "log_snr" if sampler.takes_steps else "auto"


def show(title: str, costs: dict[str, tuple[float, float]]) -> None:
    """Print the errors, from the greatest down."""
    table = Table(title=title, title_justify="left")
    table.add_column("spacing")
    for name in ("NFE", "error (RMS)", "/ tuned"):
        table.add_column(name, justify="right")
    least = costs["tuned"][0]
    for name, (error, nfe) in sorted(costs.items(), key=lambda item: -item[1][0]):
        ratio = f"{error / least:.2f}" if least else ""
        table.add_row(name, f"{nfe:g}", f"{error:.4g}", ratio)
    Console().print(table)
