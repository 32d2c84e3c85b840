"""Spacings: at which times a sampler stops on its way from noise to image.

Each is a function (schedule, steps) -> times (steps + 1,) float64, falling, the last one 0; none
lies inside (0, t_min). Times belong to the request, not to the sampler.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.schedule.base import Schedule

DROWNED = 80.0  # sigma / alpha at which no image is visible: the largest of Karras et al. 2022


def trailing(schedule: Schedule, steps: int) -> Tensor:
    """Even in t, from 1 (Lin et al. 2024, table 2); at most one step a training level."""
    _at_most_levels(schedule, steps)
    return 1 - torch.arange(steps + 1, dtype=torch.float64) / steps


def linspace(schedule: Schedule, steps: int) -> Tensor:
    """Even in t from 1 to t_min, then the step to the image."""
    return _ending(torch.linspace(1, schedule.t_min, steps, dtype=torch.float64))


def leading(schedule: Schedule, steps: int) -> Tensor:
    """DDIM's uniform stride: levels 1, 1 + L // steps, ... (Song et al. 2021, appendix D.2).

    It starts below t = 1 unless steps equals the number of levels.
    """
    levels = _at_most_levels(schedule, steps)
    index = torch.arange(steps - 1, -1, -1, dtype=torch.float64)
    return _ending((1 + levels // steps * index) / levels)


def quadratic(schedule: Schedule, steps: int) -> Tensor:
    """DDIM's quadratic levels, 1 + v^2 with v even on [0, sqrt(0.8 L)] (appendix D.2)."""
    levels = _at_most_levels(schedule, steps)
    root = torch.linspace(math.sqrt(0.8 * levels), 0, steps, dtype=torch.float64)
    return _ending(((1 + root**2) / levels).clamp(max=1))


def log_snr(schedule: Schedule, steps: int) -> Tensor:
    """Even in ln(alpha / sigma) from t = 1 to t_min (Lu et al. 2022), then the image."""
    start, end = _log_snr_ends(schedule)
    inner = torch.linspace(float(start), float(end), steps, dtype=torch.float64)
    return _pinned(schedule, inner)


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> Tensor:
    """Even in (sigma / alpha)^(1 / rho) (Karras et al. 2022, equation 5), then the image."""
    start, end = torch.exp(-_log_snr_ends(schedule) / rho)
    inner = torch.linspace(float(start), float(end), steps, dtype=torch.float64)
    return _pinned(schedule, -rho * inner.log())


def ends(schedule: Schedule, steps: int | None) -> Tensor:
    """1, t_min and 0: for a sampler that chooses its own steps, and takes no number of them."""
    if steps is not None:
        raise UsageError(f"steps={steps}: this sampler chooses its own", "set steps=null")
    return _ending(_ends(schedule))


def _ends(schedule: Schedule) -> Tensor:
    return torch.tensor([1.0, schedule.t_min], dtype=torch.float64)


def _log_snr_ends(schedule: Schedule) -> Tensor:
    """ln(alpha / sigma) at t = 1, at least -12, and at t_min, (2,).

    Where nothing of the image is left at t = 1 it is -inf there: the times are then spaced as
    though sigma / alpha began at DROWNED, so that none is spent where there is nothing to see.
    """
    log_snr = schedule.log_snr(_ends(schedule))
    return log_snr.clamp(min=-12 if log_snr[0].isfinite() else -math.log(DROWNED))


def _pinned(schedule: Schedule, log_snr: Tensor) -> Tensor:
    """Times (steps + 1,) of these log-SNRs, ends exactly 1 and t_min, then 0."""
    times = schedule.time(log_snr).clamp(schedule.t_min, 1)
    times[-1] = schedule.t_min
    times[0] = 1.0
    return _ending(times)


def _ending(times: Tensor) -> Tensor:
    return torch.cat([times, times.new_zeros(1)])


def max_steps(schedule: Schedule) -> int:
    """How many steps can go from level to level, or down to t_min where time flows."""
    return schedule.levels or math.floor(1 / schedule.t_min)


def _at_most_levels(schedule: Schedule, steps: int) -> int:
    levels = max_steps(schedule)
    if steps > levels:
        raise UsageError(f"steps={steps} is more than the {levels} levels; take {levels} at most")
    return levels


SPACINGS: dict[str, Callable[[Schedule, int], Tensor]] = {
    f.__name__: f for f in (trailing, linspace, leading, quadratic, log_snr, karras)
}


def times(schedule: Schedule, spacing: str, steps: int | None) -> Tensor:
    """Times (steps + 1,) by the name of a spacing; steps=None means every training level.

    A continuous schedule counts as 1000 levels then. UsageError for an unknown name and for
    fewer than one step.
    """
    if spacing == "ends":
        return ends(schedule, steps)
    if spacing not in SPACINGS:
        raise UsageError(f"no spacing={spacing}; there is auto, tuned, {', '.join(SPACINGS)}")
    steps = (schedule.levels or 1000) if steps is None else steps
    if steps < 1:
        raise UsageError(f"steps={steps}: take 1 or more")
    return SPACINGS[spacing](schedule, steps)


def snapped(schedule: Schedule, times: Tensor) -> Tensor:
    """The training levels nearest to `times`, for a network that knows no others.

    UsageError where two times meet at one level.
    """
    assert schedule.levels is not None, "a continuous schedule has no levels"
    nearest = (times * schedule.levels).round() / schedule.levels
    if not (nearest.diff() < 0).all():
        raise UsageError(
            f"this network knows {schedule.levels} noise levels, too few for {len(times) - 1} "
            "steps of this spacing",
            "take fewer, or spacing=linspace",
        )
    return nearest
