"""Where sampling starts: the state at the first time, from noise."""

from collections.abc import Callable

from torch import Tensor

from diffgen.sampler.noise import SeededNoise
from diffgen.schedule import Schedule

Start = Callable[[Schedule, Tensor, Tensor, SeededNoise, tuple[float, float]], Tensor]


def prior(
    schedule: Schedule, t: Tensor, like: Tensor, noise: SeededNoise, bounds: tuple[float, float]
) -> Tensor:
    """sigma(t) times unit normal noise, (B, C, H, W) of the shape and type of `like`."""
    return schedule.sigma(t) * noise(like)


def uniform(
    schedule: Schedule, t: Tensor, like: Tensor, noise: SeededNoise, bounds: tuple[float, float]
) -> Tensor:
    """Even on the data's range `bounds` = (low, high), where NCSN's papers start Langevin."""
    low, high = bounds
    return low + (high - low) * noise.uniform(like)


STARTS: dict[str, Start] = {"prior": prior, "uniform": uniform}
