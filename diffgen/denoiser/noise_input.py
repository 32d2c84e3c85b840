"""What a network gets of the noise: (schedule, t (B,)) -> c_noise (B,) float64, or None."""

from collections.abc import Callable

from torch import Tensor

from diffgen.schedule import Schedule

NoiseInput = Callable[[Schedule, Tensor], Tensor | None]


def level(schedule: Schedule, t: Tensor) -> Tensor:
    """The index of the level, 0 to levels - 1 (DDPM); continuous schedules count to 999."""
    return schedule.level(t) if schedule.levels else 999 * t


def index(schedule: Schedule, t: Tensor) -> Tensor:
    """The whole number of the nearest level, for a network that knows no others (NCSN)."""
    return schedule.level(t).round().clamp(min=0)


def log_sigma(schedule: Schedule, t: Tensor) -> Tensor:
    """ln(sigma / alpha) / 4 (Karras et al. 2022, table 1), at most 3 where no image is left."""
    return -schedule.log_snr(t).clamp(min=-12) / 4


def nothing(schedule: Schedule, t: Tensor) -> None:
    """None: the network sees the noise in x_t alone (NCSNv2)."""


NOISE_INPUTS: dict[str, NoiseInput] = {f.__name__: f for f in (level, index, log_sigma, nothing)}
