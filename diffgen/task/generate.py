"""Generation: images from nothing but noise and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffgen.task.base import Task, by_turns, on


@dataclass(frozen=True, kw_only=True)
class Generate(Task):
    """Draws image i from the noise stream (seed, i); without `labels`, all classes by turns."""

    scored: ClassVar[bool] = True

    num_samples: int

    @property
    def count(self) -> int:
        return self.num_samples

    @property
    def content(self) -> str:
        return ""

    @property
    def unconditional(self) -> bool:
        return self._label([0]) is None

    def classes(self) -> Tensor | None:
        return self._label(range(self.count))

    def draw(self, images: Sequence[int], device: torch.device) -> Tensor:
        noise = self.noise(images)
        x = self.begin(self.blank(images, device), noise)
        return self.sampler(self.denoiser, x, self.times, on(self._label(images), device), noise)

    def files(self, images: Tensor) -> dict[str, Tensor]:
        return {}

    def _label(self, images: Sequence[int]) -> Tensor | None:
        return by_turns(self.labels or range(self.num_classes), images)
