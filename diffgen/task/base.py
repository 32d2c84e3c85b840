"""What every task is: a number of images, each made from noise streams of its own."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from diffgen.dataset.pixels import Range
from diffgen.denoiser import Denoiser
from diffgen.sampler import Sampler, SeededNoise
from diffgen.sampler.base import Noise
from diffgen.sampler.noise import Start


@dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """Makes images by number, the same ones in any batch and on any device.

    `shape` (C, H, W) is one image's; `start` makes the state at times[0]; `labels` are those
    asked for, which images take by turns, or None where nobody asked; `levels_only`: whether the
    network knows the training levels and nothing between them.
    """

    scored: ClassVar[bool] = False  # whether its images are samples of the data's law

    denoiser: Denoiser
    sampler: Sampler
    times: Tensor
    start: Start
    pixel_range: Range
    shape: tuple[int, int, int]
    seed: int
    labels: tuple[int, ...] | None = None
    num_classes: int = 0
    levels_only: bool = False

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """How many images there are to make."""

    @property
    def content(self) -> str:
        """A hash of what the images depend on besides settings, "" where that is nothing."""
        return ""

    @property
    def unconditional(self) -> bool:
        """Whether it asks the model without a label."""
        return self.drawn_labels([0]) is None

    def classes(self) -> Tensor | None:
        """The class that each image should show, (count,), or None where that is not known."""
        return None

    def drawn_labels(self, images: Sequence[int]) -> Tensor | None:
        """The labels (B,) of drawn images: those asked for by turns, else all classes."""
        return by_turns(self.labels or range(self.num_classes), images)

    @abc.abstractmethod
    def draw(self, images: Sequence[int], device: torch.device) -> Tensor:
        """The images of these numbers in the model's range, (B, C, H, W)."""

    @abc.abstractmethod
    def files(self, images: Tensor) -> dict[str, Tensor]:
        """What to show of all images uint8 (count, C, H, W): pictures and animations by name."""

    def __call__(self, images: Sequence[int], device: torch.device) -> Tensor:
        """The images of these numbers, uint8 (B, C, H, W); FloatingPointError where not finite."""
        drawn = self.draw(images, device)
        if not bool(drawn.isfinite().all()):  # tasks may step through a trajectory themselves
            raise FloatingPointError(
                "images are not finite: the network gives NaN or infinity; take other weights "
                "(ema=raw, an earlier checkpoint) or precision=32-true"
            )
        return self.pixel_range.to_uint8(drawn).cpu()

    def noise(self, streams: Sequence[int]) -> SeededNoise:
        """Noise whose row k comes from the stream (seed, streams[k])."""
        return SeededNoise(self.seed, streams)

    def begin(self, like: Tensor, noise: Noise) -> Tensor:
        """The state (B, C, H, W) at times[0], of the shape and device of `like`."""
        bounds = self.pixel_range.low, self.pixel_range.high
        drawn = cast(SeededNoise, noise)
        return self.start(self.denoiser.schedule, self.times[0], like, drawn, bounds)

    def blank(self, images: Sequence[int], device: torch.device) -> Tensor:
        """Room for these images, (B, C, H, W)."""
        return torch.empty(len(images), *self.shape, device=device)


def by_turns(labels: Sequence[int] | None, images: Sequence[int]) -> Tensor | None:
    """The labels (B,) that images take by their numbers; None without labels."""
    return torch.tensor([labels[i % len(labels)] for i in images]) if labels else None


def on(label: Tensor | None, device: torch.device) -> Tensor | None:
    return None if label is None else label.to(device)
