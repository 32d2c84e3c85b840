"""`diffgen tune`: the times at which so many steps of a sampler err least on a checkpoint's model.

Evaluations are told beside each error, since steps of one number may cost different ones.
"""

from functools import cached_property
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffgen import __version__
from diffgen.errors import UsageError
from diffgen.runs import tuned_times
from diffgen.runtime.devices import fabric_of
from diffgen.runtime.launch import quiet
from diffgen.sampler import tuned
from diffgen.sampling.plan import Request
from diffgen.schedule.spacing import SPACINGS
from diffgen.schedule.spacing import times as spaced

# What a request of `diffgen sample` holds besides, where tuning leaves no choice.
PLAIN = {
    "task": {"name": "generate"},
    "spacing": "log_snr",
    "start": "auto",
    "root": None,
    "compile": False,
    "deterministic": False,
}


def tune(cfg: DictConfig) -> None:
    """Find, tell and keep the times of one way of sampling; their file is printed last."""
    quiet()
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    fabric = fabric_of({**config, "devices": 1, "precision": "32-true"})
    tuning = Tuning(config, fabric.device)
    times = tuning.found()
    costs = tuning.costs(times)
    tell(tuning.title, costs)
    print(tuning.keep(times, costs))


def preflight(config: dict[str, Any]) -> None:
    """Make all that a job of tuning calls; UsageError where there is nothing to tune."""
    Tuning(config, torch.device("cpu"))


class Tuning:
    """One way of sampling; UsageError where its sampler or its model leaves nothing to tune."""

    def __init__(self, config: dict[str, Any], device: torch.device) -> None:
        self.config, self.device, self.count = config, device, config["num_samples"]
        self.request = Request({**config, **PLAIN, "num_samples": 2 * self.count})
        self.steps: int = config["sampler"]["steps"]
        schedule, sampler = self.request.base.schedule, self.request.sampler.deterministic()
        if self.request.model.noise_input == "index":
            raise UsageError(
                f"this network knows {schedule.levels} noise levels and nothing between them, so "
                "there are no times to tune"
            )
        self.candidates = spaced(schedule, "log_snr", config["candidates"])
        tuned.check_tunable(sampler, schedule, self.candidates)
        if not 0 < (self.steps or 0) <= config["candidates"]:
            raise UsageError(
                f"steps={self.steps} of candidates={config['candidates']} times: take fewer steps "
                "or more candidates"
            )
        self.task, self.counters = self.request.task(device)
        self.denoiser, self.sampler = self.task.denoiser, sampler

    @property
    def title(self) -> str:
        """The sampler with its changed settings, and the steps."""
        way = self.request.way
        changed = [f"{key} {value}" for key, value in way["sampler"].items() if key != "name"]
        return f"{way['sampler']['name']}, {', '.join([*changed, f'{self.steps} steps'])}"

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
            **{key: self.config[key] for key in ("num_samples", "candidates", "seed", "labels")},
            "versions": {"diffgen": __version__, "torch": str(torch.__version__)},
        }
        return str(tuned_times.keep(self.request.checkpoint, self.request.way, times, facts))


def tell(title: str, costs: dict[str, tuple[float, float]]) -> None:
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
