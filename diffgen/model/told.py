"""What a network is told of the noise: functions (schedule, t (B,)) -> (B,) float64, or None."""

from collections.abc import Callable

from torch import Tensor

from diffgen.schedule import Schedule

Told = Callable[[Schedule, Tensor], Tensor | None]


def level(schedule: Schedule, t: Tensor) -> Tensor:
    """The index of the level, 0 to levels - 1 (DDPM); continuous schedules count to 999."""
    return schedule.level(t) if schedule.levels else 999 * t


def log_sigma(schedule: Schedule, t: Tensor) -> Tensor:
    """ln(sigma / alpha) / 4 (Karras et al. 2022, table 1)."""
    return -schedule.log_snr(t) / 4


def nothing(schedule: Schedule, t: Tensor) -> None:
    """Nothing: the noise speaks for itself (NCSNv2)."""


TOLD: dict[str, Told] = {"level": level, "log_sigma": log_sigma, "nothing": nothing}
