"""Generation: images from nothing but noise and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffgen.task.base import Task, on


@dataclass(frozen=True, kw_only=True)
class Generate(Task):
    """Draws image i from the noise stream (seed, i); without `labels`, all classes by turns."""

    scored: ClassVar[bool] = True

    num_samples: int

    @property
    def count(self) -> int:
        return self.num_samples

    def classes(self) -> Tensor | None:
        return self.drawn_labels(range(self.count))

    def draw(self, images: Sequence[int], device: torch.device) -> Tensor:
        noise = self.noise(images)
        x = self.begin(self.blank(images, device), noise)
        return self.sampler(
            self.denoiser, x, self.times, on(self.drawn_labels(images), device), noise
        )

    def files(self, images: Tensor) -> dict[str, Tensor]:
        return {}
