"""Parts of a sampler's way, so that they go like the whole of it."""

from dataclasses import replace

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.sampler import Sampler
from diffgen.sampler.consistent import Consistent
from diffgen.sampler.langevin import Langevin
from diffgen.schedule import Schedule


def settled(sampler: Sampler, schedule: Schedule, times: Tensor) -> Sampler:
    """The sampler, with what it would take from all `times` fixed, to run on parts of them."""
    lowest = float(schedule.sigma(times.new_tensor(schedule.t_min))) ** 2
    if isinstance(sampler, Langevin):
        rate = sampler.rate(schedule, times)
        return replace(sampler, epsilon=rate * lowest, convention="code")
    if isinstance(sampler, Consistent):
        return replace(sampler, epsilon=(1 - sampler.left(schedule, times)) * lowest)
    return sampler


def from_strength(schedule: Schedule, times: Tensor, strength: float) -> Tensor:
    """The way from the time `strength` down: it, the nearest training level, then `times` below.

    Strength 0 is the image, with nowhere to go; 1 is all noise.
    """
    if not 0 <= strength <= 1:
        raise UsageError(f"task.strength={strength} is not in [0, 1]")
    if strength == 0:
        return times[-1:]
    levels = schedule.levels
    t = round(strength * levels) / levels if levels else strength
    first = times.new_tensor([max(t, schedule.t_min)])
    return torch.cat([first, times[times < first - 1e-9]])


def evenly(schedule: Schedule, t: Tensor, steps: int) -> Tensor:
    """Times (steps + 1,) from t to t_min, even in ln(alpha / sigma), and then 0."""
    if steps == 1:
        return torch.stack([t, torch.zeros_like(t)])
    first, last = schedule.log_snr(torch.stack([t, t.new_tensor(schedule.t_min)])).tolist()
    times = schedule.time(torch.linspace(first, last, steps, dtype=torch.float64))
    return torch.cat([t[None], times[1:-1], t.new_tensor([schedule.t_min, 0.0])])


def check_stops(sampler: Sampler, task: str) -> None:
    """UsageError for a sampler that goes its way by itself, image by image."""
    if not sampler.takes_steps:
        raise UsageError(
            f"{task} needs a sampler that takes the same steps with all images, and "
            f"{type(sampler).__name__} chooses them for each: take sampler=heun"
        )
