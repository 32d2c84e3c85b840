"""From settings to what a sampler runs on: times, start and clip, `auto` replaced.

Previews, `explain`, `sample` and `tune` all come through `plan_of`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from diffgen.config.recipe import ModelSettings
from diffgen.dataset.pixels import Range
from diffgen.denoiser.base import Clipped, Denoiser, Thresholded
from diffgen.errors import UsageError, did_you_mean
from diffgen.sampler import Sampler
from diffgen.sampler.noise import STARTS, Start
from diffgen.schedule import Schedule
from diffgen.schedule.spacing import max_steps, snapped, times

CLIPS: dict[str, Callable[[Denoiser, Range], Denoiser]] = {
    "none": lambda denoiser, _: denoiser,
    "range": lambda denoiser, of: Clipped(denoiser, of.low, of.high),
    "dynamic": lambda denoiser, of: Thresholded(denoiser, of.low, of.high),
}


@dataclass(frozen=True)
class SamplingPlan:
    """A sampler with all that it is run on but the denoiser and the noise.

    times: (steps + 1,) float64, falling to 0; spacing, start_name, clip: the names in force.
    """

    sampler: Sampler
    times: Tensor
    spacing: str
    start_name: str
    clip: str

    @property
    def steps(self) -> int | None:
        """The number of steps, None where the sampler chooses it for each image."""
        return len(self.times) - 1 if self.sampler.takes_steps else None

    @property
    def start(self) -> Start:
        """What makes the state at times[0]."""
        return STARTS[self.start_name]

    def clipped(self, denoiser: Denoiser, pixel_range: Range) -> Denoiser:
        """The denoiser, its estimates kept inside the range as the plan says."""
        return CLIPS[self.clip](denoiser, pixel_range)

    def warning(self, schedule: Schedule) -> str | None:
        """What is likely to disappoint, with the remedy."""
        return self.sampler.warning(schedule, len(self.times) - 1)


def plan_of(
    sampler: Sampler,
    steps: int | None,
    model: ModelSettings,
    schedule: Schedule,
    *,
    spacing: str = "auto",
    start: str = "auto",
    clip: str = "auto",
    tuned: Callable[[], Tensor] | None = None,
) -> SamplingPlan:
    """The plan of a sampler on a model; `tuned` finds the times of spacing=tuned.

    UsageError where sampler, spacing, number of steps and model do not go together.
    """
    if spacing == "auto":
        spacing = _default_spacing(sampler, steps, model, schedule)
    if spacing == "tuned" and tuned:
        found = tuned()
    else:
        check_spacing(sampler, spacing)
        found = times_of(model, schedule, spacing, steps)
    if model.noise_input == "index" and sampler.takes_steps and not sampler.keeps_times():
        raise UsageError(
            f"this network knows {schedule.levels} noise levels and nothing between them, where "
            "churn would go; take sampler.churn=0"
        )
    if start == "auto":
        start = _default_start(sampler, model)
    if start not in STARTS:
        raise UsageError(f"no start={start}{did_you_mean(start, STARTS)}")
    if clip == "auto":
        clip = "range" if model.clip and sampler.clips_by_default else "none"
    return SamplingPlan(sampler, found, spacing, start, clip)


def _default_start(sampler: Sampler, model: ModelSettings) -> str:
    """The sampler's own, on a shell where the network does not know the level."""
    if sampler.start == "prior" and model.noise_input == "nothing":
        return "shell"
    return sampler.start


def _default_spacing(
    sampler: Sampler, steps: int | None, model: ModelSettings, schedule: Schedule
) -> str:
    """The sampler's own, or between levels where steps are more.

    Not for a network that knows nothing between them.
    """
    if sampler.finer and model.noise_input != "index" and (steps or 0) > max_steps(schedule):
        return sampler.finer
    return sampler.spacing


def check_spacing(sampler: Sampler, spacing: str) -> None:
    """UsageError where only one of a sampler and a spacing leaves the steps to the sampler."""
    if sampler.takes_steps and spacing == "ends":
        raise UsageError(
            "spacing=ends: this sampler takes the steps it is given; take spacing=auto"
        )
    if not sampler.takes_steps and spacing != "ends":
        raise UsageError(
            f"spacing={spacing}: this sampler chooses its own steps; leave it at spacing=auto"
        )


def times_of(model: ModelSettings, schedule: Schedule, spacing: str, steps: int | None) -> Tensor:
    """Times (steps + 1,) of a spacing at which this model can be asked.

    UsageError where it knows a few levels by index and the times would be others.
    """
    found = times(schedule, spacing, steps)
    if model.noise_input != "index":
        return found
    if spacing == "ends":
        raise UsageError(
            f"this network knows {schedule.levels} noise levels and nothing between them, where "
            "this sampler would go; take one with steps, such as sampler=ddim"
        )
    return snapped(schedule, found)
