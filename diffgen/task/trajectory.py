"""The way from noise to an image, frame by frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffgen.dataset.pixels import enlarge
from diffgen.schedule import Schedule
from diffgen.task.base import Task, on
from diffgen.task.edit import at_least, check_takes_steps, joined


@dataclass(frozen=True, kw_only=True)
class Trajectory(Task):
    """How image k of `diffgen sample` came about: x_t above, the estimate of x0 below.

    `ways` is the number of images, each with `frames` states from the first time to the last, even
    in steps. x_t is shown around the middle grey with the deviation that the range has, whatever
    sigma is; the last frame is the image.
    """

    ways: int = 4
    frames: int = 8

    def __post_init__(self) -> None:
        at_least("ways", self.ways, 1)
        at_least("frames", self.frames, 2)
        check_takes_steps(self.sampler, "showing the way")

    @property
    def count(self) -> int:
        return self.ways * 2 * self.frames

    @cached_property
    def shown(self) -> list[int]:
        """The states of the frames: 0 is that at times[0], and k that after interval k."""
        steps = len(self.times) - 1
        return [round(k * steps / (self.frames - 1)) for k in range(self.frames)]

    def draw(self, images: Sequence[int], device: torch.device) -> Tensor:
        ways = sorted({i // (2 * self.frames) for i in images})
        frames = self._frames(ways, device)
        return torch.stack(
            [frames[i % (2 * self.frames), ways.index(i // (2 * self.frames))] for i in images]
        )

    @torch.no_grad()
    def _frames(self, ways: Sequence[int], device: torch.device) -> Tensor:
        """x_t of each frame and then the estimates, (2 frames, ways, C, H, W)."""
        noise, label = self.noise(ways), on(self.drawn_labels(ways), device)
        x = self.begin(self.blank(ways, device), noise)
        states = [x, *self.sampler.trajectory(self.denoiser, x, self.times, label, noise)]
        seen, estimates = [], []
        for k in self.shown:
            t, state = self.times[k], states[k]
            seen.append(self._visible(state, t))
            done = bool(self.denoiser.schedule.sigma(t) == 0)
            estimates.append(state if done else self.denoiser(state, t, label))
        return torch.stack([*seen, *estimates])

    def _visible(self, x: Tensor, t: Tensor) -> Tensor:
        """x_t scaled about the middle of the range to the deviation that images may have."""
        low, high = self.pixel_range.low, self.pixel_range.high
        middle, half = (low + high) / 2, (high - low) / 2
        schedule: Schedule = self.denoiser.schedule
        alpha, sigma = schedule.at(t, x)
        return middle + (x - alpha * middle) * half / (alpha**2 * half**2 + sigma**2).sqrt()

    def files(self, images: Tensor) -> dict[str, Tensor]:
        rows = images.unflatten(0, (2 * self.ways, self.frames))
        found = {"samples.png": joined(rows)}
        for k, (seen, estimates) in enumerate(rows.unflatten(0, (self.ways, 2))):
            found[f"way_{k:03}.png"] = joined(torch.stack([seen, estimates]))
            above, below = enlarge(seen, 256), enlarge(estimates, 256)
            gap = torch.full_like(above[..., :8, :], 255)
            found[f"way_{k:03}.gif"] = torch.cat([above, gap, below], -2)
        return found
