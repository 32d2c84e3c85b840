"""The random numbers of a training step, as functions of (seed, step, position in the batch).

Everything is drawn for the whole global batch and then cut, so that resuming is exact without
stored states, and neither devices nor gradient accumulation change what a position sees.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

STREAMS = {"time": 0, "noise": 1, "label": 2, "dropout": 3, "dequantise": 4, "augment": 5}


@dataclass(frozen=True)
class RandomNumbers:
    """Those of one step of a run; `position` (b,): which rows of the batch this process holds."""

    seed: int
    step: int
    batch_size: int
    position: Tensor

    def uniform(self, stream: str) -> Tensor:
        """Uniform on [0, 1), for the whole batch: (batch_size,) float64 on the CPU."""
        generator = self._generator(stream, torch.device("cpu"))
        return torch.rand(self.batch_size, generator=generator, dtype=torch.float64)

    def uniforms(self, stream: str, count: int) -> Tensor:
        """As `uniform`, `count` numbers for each image: (batch_size, count)."""
        generator, shape = self._generator(stream, torch.device("cpu")), (self.batch_size, count)
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    def normal(self, like: Tensor) -> Tensor:
        """Unit normal noise of the shape of `like` (b, ...), drawn on its device."""
        return self._like(torch.randn, "noise", like)

    def uniform_like(self, like: Tensor) -> Tensor:
        """Uniform on [0, 1), of the shape of `like` (b, ...), for dequantisation."""
        return self._like(torch.rand, "dequantise", like)

    def local(self, batch: Tensor) -> Tensor:
        """The rows (b, ...) of a global batch that this process holds now."""
        if len(self.position) == self.batch_size:
            return batch
        return batch[self.position.to(batch.device)]

    def seed_dropout(self, rank: int, device: torch.device) -> None:
        """Seed torch's own generators, which only dropout uses, from the step and the rows.

        torch.manual_seed would cost milliseconds by keeping a stack trace for each absent device.
        """
        seed = self._seed("dropout", rank, int(self.position[0]))
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)

    def _like(self, draw: Callable[..., Tensor], stream: str, like: Tensor) -> Tensor:
        generator, shape = self._generator(stream, like.device), (self.batch_size, *like.shape[1:])
        return self.local(draw(shape, generator=generator, device=like.device))

    def _generator(self, stream: str, device: torch.device) -> torch.Generator:
        return torch.Generator(device).manual_seed(self._seed(stream))

    def _seed(self, stream: str, *more: int) -> int:
        words = (self.seed, self.step, STREAMS[stream], *more)
        return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)
