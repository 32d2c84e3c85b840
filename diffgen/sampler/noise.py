"""Noise by image: image i draws from a stream of its own, in any batch and on any device."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


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
