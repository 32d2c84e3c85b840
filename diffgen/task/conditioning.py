"""Sampling the unknown pixels of a picture given the known ones: two rules and their settings.

The replacement of known pixels is Song and Ermon 2019, algorithm 2, and Lugmayr et al. 2022.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser, Wrapper
from diffgen.sampler import SeededNoise
from diffgen.sampler.base import noised
from diffgen.task.base import Task
from diffgen.task.edit import at_least, check_takes_steps
from diffgen.task.mmps import MMPSDenoiser

ROUNDING = 1 / 255 / 12**0.5  # deviation of a byte from what it stands for, in [0, 1]


class KnownPixels(Wrapper):
    """A denoiser with the true pixels, as noisy as the others, in place of the known ones.

    image (B, C, H, W), known bool, to broadcast against it. There x_t becomes alpha image +
    sigma noise, and the estimate is the image itself. Replacing them in the input is the papers'
    replacement after each step, since no step mixes pixels.
    """

    def __init__(self, denoiser: Denoiser, image: Tensor, known: Tensor) -> None:
        super().__init__(denoiser)
        self.image, self.known, self.noise = image, known, torch.zeros_like(image)

    def set_noise(self, noise: Tensor) -> None:
        """Use this unit noise for the known pixels from now on (B, C, H, W)."""
        self.noise = noise

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = self.schedule.at(t, x_t)
        replaced = torch.where(self.known, alpha * self.image + sigma * self.noise, x_t)
        return torch.where(self.known, self.image, self.denoiser(replaced, t, label))


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """The settings that inpainting and colorization share: `results` images of each picture.

    rule=replace: the papers' replacement. `resample` is how often each part of `jump` intervals is
    sampled; null is 1 for Langevin, whose moves do the same, and else 5.
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
    """RePaint's images (B, C, H, W): each part of the times is sampled `resample` times.

    A part is `jump` intervals, the last one maybe shorter; before each repetition x is noised back
    to the start of it (RePaint, algorithm 1). The step to the image is not repeated: it takes the
    mean, and means of means would lose the variance. With few resamplings the unknown pixels
    depend too little on the known ones.
    """
    sampler = task.sampler.with_fixed_step(task.denoiser.schedule, task.times)
    known = KnownPixels(given.denoiser, given.image, given.known)
    resample = sampler.resamplings if settings.resample is None else settings.resample

    @torch.no_grad()
    def sample(x: Tensor, times: Tensor) -> Tensor:
        """x at times[-1], with new noise for the known pixels after each interval."""
        known.set_noise(noise(x))
        for state in sampler.trajectory(known, x, times, given.label, noise):
            x = state
            known.set_noise(noise(x))
        return x

    if resample == 1:
        return sample(x, task.times)
    before = task.times[:-1]
    for first in range(0, len(before) - 1, settings.jump):
        part = before[first : first + settings.jump + 1]
        x = sample(x, part)
        for _ in range(resample - 1):
            x = sample(noised(known.schedule, x, part[-1], part[0], noise(x)), part)
    return sample(x, task.times[-2:])


def by_moments(
    settings: Conditioning, task: Task, x: Tensor, given: Given, noise: SeededNoise
) -> Tensor:
    """MMPS's images (B, C, H, W)."""
    error = ROUNDING / task.pixel_range.scale
    denoiser = MMPSDenoiser(given.denoiser, given.image, given.known, error, settings.solves)
    return task.sampler(denoiser, x, task.times, given.label, noise)


Rule = Callable[[Conditioning, Task, Tensor, Given, SeededNoise], Tensor]
RULES: dict[str, Rule] = {"replace": by_replacement, "moments": by_moments}
