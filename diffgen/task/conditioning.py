"""Sampling the unknown pixels of a picture given the known ones: two rules and their settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler import SeededNoise
from diffgen.task.base import Task
from diffgen.task.edit import at_least, check_takes_steps
from diffgen.task.mmps import MMPSDenoiser
from diffgen.task.repaint import KnownPixels, repaint

ROUNDING = 1 / 255 / 12**0.5  # deviation of a byte from what it stands for, in [0, 1]


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """The settings that inpainting and colorization share: `results` images of each picture.

    rule=replace: the papers' replacement (see `repaint`). `resample` is how often each part of
    `jump` intervals is sampled; null is 1 for Langevin, whose moves do the same, and else 5.
    resample=1 is Song et al.'s replacement, and for Langevin NCSN's.

    rule=moments: the estimate of x0 is conditioned on the known pixels (see `mmps`), in `solves`
    iterations; times are sampled once, and solvers of any order keep their order.
    """

    rule: Literal["replace", "moments"] = "replace"
    results: int = 4
    resample: int | None = None
    jump: int = 1
    solves: int = 3

    @property
    def each(self) -> int:
        return self.results

    def check(self, task: Task) -> None:
        """UsageError for numbers below 1, and for a sampler that chooses its own steps."""
        for key in ("results", "jump", "solves"):
            at_least(key, getattr(self, key), 1)
        at_least("resample", 1 if self.resample is None else self.resample, 1)
        check_takes_steps(task.sampler, "filling in")

    def fill(self, task: Task, x: Tensor, given: "Given", noise: SeededNoise) -> Tensor:
        """Images (B, C, H, W) from x at times[0], the known pixels as they are given."""
        filled = RULES[self.rule](self, task, x, given, noise)
        return torch.where(given.known, given.image, filled)


@dataclass(frozen=True, eq=False)
class Given:
    """What is given: a denoiser, images (B, C, H, W), where they are known (bool), labels (B,)."""

    denoiser: Denoiser
    image: Tensor
    known: Tensor
    label: Tensor | None


def by_replacement(
    settings: Conditioning, task: Task, x: Tensor, given: Given, noise: SeededNoise
) -> Tensor:
    """RePaint's images (B, C, H, W)."""
    sampler = task.sampler.with_fixed_step(task.denoiser.schedule, task.times)
    denoiser = KnownPixels(given.denoiser, given.image, given.known)
    resample = sampler.resamplings if settings.resample is None else settings.resample
    return repaint(sampler, denoiser, x, task.times, given.label, noise, resample, settings.jump)


def by_moments(
    settings: Conditioning, task: Task, x: Tensor, given: Given, noise: SeededNoise
) -> Tensor:
    """MMPS's images (B, C, H, W)."""
    error = ROUNDING / task.pixel_range.scale
    denoiser = MMPSDenoiser(given.denoiser, given.image, given.known, error, settings.solves)
    return task.sampler(denoiser, x, task.times, given.label, noise)


Rule = Callable[[Conditioning, Task, Tensor, Given, SeededNoise], Tensor]
RULES: dict[str, Rule] = {"replace": by_replacement, "moments": by_moments}
