"""The times of a task that starts between noise and image."""

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.schedule import Schedule


def check_strength(strength: float) -> None:
    """UsageError outside [0, 1]."""
    if not 0 <= strength <= 1:
        raise UsageError(f"task.strength={strength} is not in [0, 1]")


def from_strength(schedule: Schedule, times: Tensor, strength: float) -> Tensor:
    """The time `strength`, rounded to the nearest training level, and then `times` below it.

    Strength 0 is the image, without a step; 1 is all noise. UsageError outside [0, 1].
    """
    check_strength(strength)
    if strength == 0:
        return times[-1:]
    levels = schedule.levels
    t = round(strength * levels) / levels if levels else strength
    first = times.new_tensor([max(t, schedule.t_min)])
    return torch.cat([first, times[times < first - 1e-9]])


def even_log_snr(schedule: Schedule, t: Tensor, steps: int) -> Tensor:
    """Times (steps + 1,) from t to t_min, even in ln(alpha / sigma), and then 0."""
    if steps == 1:
        return torch.stack([t, torch.zeros_like(t)])
    first, last = schedule.log_snr(torch.stack([t, t.new_tensor(schedule.t_min)])).tolist()
    times = schedule.time(torch.linspace(first, last, steps, dtype=torch.float64))
    return torch.cat([t[None], times[1:-1], t.new_tensor([schedule.t_min, 0.0])])
