"""Variations: a picture noised part of the way, and back (Meng et al. 2022, SDEdit)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffgen.task.edit import Edit, at_least, beside
from diffgen.task.way import from_strength, settled


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
        self.ways  # noqa: B018 (it checks the strengths)

    @property
    def strengths(self) -> list[float]:
        """The strengths, as a list."""
        return self.strength if isinstance(self.strength, list) else [self.strength]

    @cached_property
    def ways(self) -> list[Tensor]:
        """The times that each strength goes through."""
        schedule = self.denoiser.schedule
        return [from_strength(schedule, self.times, strength) for strength in self.strengths]

    @property
    def each(self) -> int:
        return len(self.strengths) * self.results

    def draw(self, images: Sequence[int], device: torch.device) -> Tensor:
        x0, ways = self.clean(images, device), [self.way(image) for image in images]
        for way in set(ways):
            rows = [k for k, other in enumerate(ways) if other == way]
            x0[rows] = self.there_and_back(x0[rows], self.ways[way], [images[k] for k in rows])
        return x0

    def way(self, image: int) -> int:
        """Which of the strengths an image has."""
        return image % self.each // self.results

    def stream(self, image: int) -> int:
        """The noise stream of an image: its picture's and its result's."""
        return image // self.each * self.results + image % self.results

    def there_and_back(self, x0: Tensor, times: Tensor, images: Sequence[int]) -> Tensor:
        """x0 (B, C, H, W) noised to times[0] and denoised again."""
        schedule, noise = self.denoiser.schedule, self.noise([self.stream(i) for i in images])
        alpha, sigma = schedule.at(times[0], x0)
        x, label = alpha * x0 + sigma * noise(x0), self.label(images, x0.device)
        sampler = settled(self.sampler, schedule, self.times)
        return sampler(self.denoiser, x, times, label, noise)

    def files(self, images: Tensor) -> dict[str, Tensor]:
        return beside(images, self.given.pixels.repeat_interleave(len(self.strengths), 0))
