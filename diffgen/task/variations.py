"""Variations: a picture noised part of the way, and back (Meng et al. 2022, SDEdit)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffgen.task.edit import Edit, at_least, beside
from diffgen.task.times import check_strength, from_strength


@dataclass(frozen=True, kw_only=True)
class Variations(Edit):
    """`results` images of each picture at each `strength`, the time up to which it is noised.

    Times are shares of the levels, rounded to one where the model has levels: 0 gives the
    picture back, 1 a new image. Result r has the same noise at every strength.
    """

    strength: float | list[float]
    results: int = 4

    def __post_init__(self) -> None:
        at_least("results", self.results, 1)
        at_least("strength", len(self.strengths), 1)
        for strength in self.strengths:
            check_strength(strength)

    @property
    def strengths(self) -> list[float]:
        return self.strength if isinstance(self.strength, list) else [self.strength]

    @cached_property
    def path_times(self) -> list[Tensor]:
        schedule = self.denoiser.schedule
        return [from_strength(schedule, self.times, strength) for strength in self.strengths]

    @property
    def each(self) -> int:
        return len(self.strengths) * self.results

    def draw(self, images: Sequence[int], device: torch.device) -> Tensor:
        x0, indices = self.clean(images, device), [self.strength_index(i) for i in images]
        for index in set(indices):
            rows = [k for k, other in enumerate(indices) if other == index]
            chosen = [images[k] for k in rows]
            x0[rows] = self.noise_and_denoise(x0[rows], self.path_times[index], chosen)
        return x0

    def strength_index(self, image: int) -> int:
        """Which of the strengths an image has."""
        return image % self.each // self.results

    def stream(self, image: int) -> int:
        """The noise stream of an image: its picture's and its result's."""
        return image // self.each * self.results + image % self.results

    def noise_and_denoise(self, x0: Tensor, times: Tensor, images: Sequence[int]) -> Tensor:
        """x0 (B, C, H, W) noised to times[0] and denoised again."""
        schedule, noise = self.denoiser.schedule, self.noise([self.stream(i) for i in images])
        alpha, sigma = schedule.at(times[0], x0)
        x, label = alpha * x0 + sigma * noise(x0), self.label(images, x0.device)
        sampler = self.sampler.with_fixed_step(schedule, self.times)
        return sampler(self.denoiser, x, times, label, noise)

    def files(self, images: Tensor) -> dict[str, Tensor]:
        return beside(images, self.given.pixels.repeat_interleave(len(self.strengths), 0))
