"""Noise by image: image i draws from a stream of its own, in any batch and on any device."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from diffgen.schedule import Schedule


class SeededNoise:
    """noise(like) -> unit normal noise; row k comes from the stream (seed, images[k]) alone.

    Streams are numpy's Philox generators, keyed by the pair, so that no two images can meet; the
    noise is drawn on the CPU and moved.
    """

    def __init__(self, seed: int, images: Sequence[int]) -> None:
        self.streams = [
            np.random.Generator(np.random.Philox(key=np.array([seed, image], dtype=np.uint64)))
            for image in images
        ]

    def __call__(self, like: Tensor) -> Tensor:
        """Unit normal noise (B, ...) of the shape, type and device of `like`."""
        rows = [stream.standard_normal(like.shape[1:], np.float32) for stream in self.streams]
        return torch.from_numpy(np.stack(rows)).to(like)  # pyright: ignore[reportUnknownMemberType]

    def uniform(self, like: Tensor) -> Tensor:
        """Noise even on [0, 1) (B, ...), from the same streams."""
        rows = [stream.random(like.shape[1:], np.float32) for stream in self.streams]
        return torch.from_numpy(np.stack(rows)).to(like)  # pyright: ignore[reportUnknownMemberType]


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
