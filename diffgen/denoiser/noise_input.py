"""What a network gets of the noise: (schedule, t (B,)) -> c_noise (B,) float64, or None."""

import math
from collections.abc import Callable

from torch import Tensor

from diffgen.schedule import Schedule

NoiseInput = Callable[[Schedule, Tensor], Tensor | None]


def level(schedule: Schedule, t: Tensor) -> Tensor:
    """The index of the level, 0 to levels - 1 (DDPM); continuous schedules count to 999."""
    return schedule.level(t) if schedule.levels else 999 * t


def thousandths(schedule: Schedule, t: Tensor) -> Tensor:
    """The level as if there were 1000 of them (Nichol and Dhariwal 2021's code)."""
    return schedule.level(t) * (1000 / schedule.levels) if schedule.levels else 999 * t


def index(schedule: Schedule, t: Tensor) -> Tensor:
    """The whole number of the nearest level, for a network that knows no others (NCSN)."""
    return schedule.level(t).round().clamp(min=0)


def log_sigma(schedule: Schedule, t: Tensor) -> Tensor:
    """ln(sigma / alpha) / 4 (Karras et al. 2022, table 1), at most 3 where no image is left."""
    return -schedule.log_snr(t).clamp(min=-12) / 4


def log_half_sigma(schedule: Schedule, t: Tensor) -> Tensor:
    """ln(sigma / (2 alpha)): NCSN++ counts sigma for images in [0, 1], where it is half."""
    return -schedule.log_snr(t).clamp(min=-12) - math.log(2)


def nothing(schedule: Schedule, t: Tensor) -> None:
    """None: the network sees the noise in x_t alone (NCSNv2)."""


INPUTS = (level, thousandths, index, log_sigma, log_half_sigma, nothing)
NOISE_INPUTS: dict[str, NoiseInput] = {f.__name__: f for f in INPUTS}
