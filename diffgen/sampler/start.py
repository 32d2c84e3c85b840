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


def shell(
    schedule: Schedule, t: Tensor, like: Tensor, noise: SeededNoise, bounds: tuple[float, float]
) -> Tensor:
    """As prior, with the noise of each image scaled to a mean square of exactly 1.

    A network without a noise input estimates the level from the noise itself. Unit noise of d
    pixels differs from size 1 by 1 / sqrt(2 d) by chance, and no solver of the ODE removes the
    excess, since each step subtracts a difference of sigmas times a direction.
    """
    eps = noise(like)
    square = eps.square().flatten(1).mean(1).reshape(-1, *(1,) * (like.ndim - 1))
    return schedule.sigma(t) * eps / square.sqrt()


def uniform(
    schedule: Schedule, t: Tensor, like: Tensor, noise: SeededNoise, bounds: tuple[float, float]
) -> Tensor:
    """Even on the data's range `bounds` = (low, high), where NCSN's papers start Langevin."""
    low, high = bounds
    return low + (high - low) * noise.uniform(like)


STARTS: dict[str, Start] = {f.__name__: f for f in (prior, shell, uniform)}
