"""Tasks that fill in what a picture has lost."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler import Sampler, SeededNoise
from diffgen.sampler.langevin import Langevin
from diffgen.task.edit import Edit, at_least
from diffgen.task.known import Known, replaced
from diffgen.task.moments import Conditioned
from diffgen.task.way import check_stops, settled

ROUNDING = 1 / 255 / 12**0.5  # deviation of a byte from what it stands for, in [0, 1]


@dataclass(frozen=True, kw_only=True)
class Filling(Edit, abc.ABC):
    """`results` images of each picture, by one of two rules.

    rule=replace: the papers' (see `known`). `resample` is how often each stretch of `jump`
    intervals is gone through; null is 1 for Langevin, whose moves do the same, and else 5. One
    go is Song et al.'s replacement, and for Langevin NCSN's.

    rule=moments: the estimate is moved toward the known pixels (see `moments`), in `solves`
    iterations; one go, and solvers of any order keep their order.
    """

    rule: Literal["replace", "moments"] = "replace"
    results: int = 4
    resample: int | None = None
    jump: int = 1
    solves: int = 3

    def __post_init__(self) -> None:
        for key in ("results", "jump", "solves"):
            at_least(key, getattr(self, key), 1)
        at_least("resample", 1 if self.resample is None else self.resample, 1)
        check_stops(self.sampler, "filling in")

    @property
    def each(self) -> int:
        return self.results

    @cached_property
    def settled(self) -> Sampler:
        """The sampler, ready to run on stretches."""
        return settled(self.sampler, self.denoiser.schedule, self.times)

    @property
    def goes(self) -> int:
        """How often each stretch is gone through."""
        own = 1 if isinstance(self.sampler, Langevin) else 5
        return own if self.resample is None else self.resample

    def filled(
        self,
        denoiser: Denoiser,
        x: Tensor,
        image: Tensor,
        known: Tensor,
        images: Sequence[int],
        noise: SeededNoise,
    ) -> Tensor:
        """`image` (B, C, H, W) where it is known, and what fits it elsewhere, from x on."""
        label = self.label(images, x.device)
        fill = {"replace": self._replaced, "moments": self._moments}[self.rule]
        return torch.where(known, image, fill(denoiser, x, image, known, label, noise))

    def _replaced(
        self,
        denoiser: Denoiser,
        x: Tensor,
        image: Tensor,
        known: Tensor,
        label: Tensor | None,
        noise: SeededNoise,
    ) -> Tensor:
        seen = Known(denoiser, image, known)
        way = self.times, label, noise, self.goes, self.jump
        return replaced(self.settled, seen, x, *way)

    def _moments(
        self,
        denoiser: Denoiser,
        x: Tensor,
        image: Tensor,
        known: Tensor,
        label: Tensor | None,
        noise: SeededNoise,
    ) -> Tensor:
        error = ROUNDING / self.pixel_range.scale
        seen = Conditioned(denoiser, image, known, error, self.solves)
        return self.sampler(seen, x, self.times, label, noise)
