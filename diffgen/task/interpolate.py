"""Interpolation: strips of images from one end to another; mixed noise keeps unit variance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from diffgen.dataset.pixels import enlarge
from diffgen.denoiser import Denoiser, Wrapper
from diffgen.errors import UsageError
from diffgen.sampler import SeededNoise
from diffgen.sampler.likelihood import encode, noiseless
from diffgen.schedule.base import match
from diffgen.task.base import Task, by_turns, on
from diffgen.task.edit import ROWS, at_least, check_takes_steps, joined
from diffgen.task.inputs import InputImages, LoadedImages, Names, digest
from diffgen.task.times import check_strength, from_strength


class MixedNoise:
    """cos(a) p + sin(a) q for two noises p and q, a from 0 to pi / 2 as `share` (B,) from 0 to 1.

    Every draw is mixed, so that the noise of the whole trajectory is (Song and Ermon 2020,
    appendix B.2). At the ends it is p or q to the bit.
    """

    def __init__(self, first: SeededNoise, second: SeededNoise, share: Tensor) -> None:
        self.first, self.second, self.share = first, second, share
        self.cos, self.sin = circle(share)

    def __call__(self, like: Tensor) -> Tensor:
        """Unit normal noise (B, ...) of the shape, type and device of `like`."""
        p, q = self.first(like), self.second(like)
        return match(self.cos, like) * p + match(self.sin, like) * q

    def uniform(self, like: Tensor) -> Tensor:
        """Numbers on [0, 1) (B, ...), mixed in a straight line, which stays inside."""
        return lerp(self.first.uniform(like), self.second.uniform(like), self.share)


def circle(share: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin (B,) of the angles, exactly 1 and 0 at the ends."""
    angle = share.double() * math.pi / 2
    return torch.where(share == 1, 0, angle.cos()), torch.where(share == 0, 0, angle.sin())


def lerp(p: Tensor, q: Tensor, share: Tensor) -> Tensor:
    """(1 - share) p + share q of images (B, ...) by shares (B,)."""
    return match(1 - share, p) * p + match(share, q) * q


def slerp(p: Tensor, q: Tensor, share: Tensor) -> Tensor:
    """Images (B, ...) along the arc from p to q (Song et al. 2021, DDIM, equation 67).

    sin((1 - s) w) / sin(w) p + sin(s w) / sin(w) q with w the angle between p and q; a straight
    line where that is nearly 0.
    """
    share = match(share, p)
    sums = range(1, p.ndim)
    lengths = (p.square().sum(tuple(sums), True) * q.square().sum(tuple(sums), True)).sqrt()
    w = ((p * q).sum(tuple(sums), True) / lengths).clamp(-1, 1).acos()
    bent = w.sin() > 1e-4
    arcs = (torch.where(bent, (s * w).sin() / w.sin(), s) for s in (1 - share, share))
    return sum((arc * end for arc, end in zip(arcs, (p, q), strict=True)), torch.zeros_like(p))


def shares(frames: int, images: Sequence[int]) -> Tensor:
    """How far each of these images is from one end of its strip to the other, (B,) float64."""
    return torch.tensor([image % frames / (frames - 1) for image in images], dtype=torch.float64)


class LabelMix(Wrapper):
    """(1 - share) D(x, label) + share D(x, other), row by row; share (B,), other (B,)."""

    def __init__(self, denoiser: Denoiser, other: Tensor, share: Tensor) -> None:
        super().__init__(denoiser)
        self.other, self.share = other, share

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        one = self.denoiser(x_t, t, label)
        return lerp(one, self.denoiser(x_t, t, self.other), self.share)


def mix_labels(
    denoiser: Denoiser, label: Tensor | None, other: Tensor | None, share: Tensor
) -> Denoiser:
    """The denoiser between two labels, itself where these are the same."""
    if label is None or other is None or torch.equal(label, other):
        return denoiser
    return LabelMix(denoiser, other, share)


Ends = tuple[list[int], list[int]]


@dataclass(frozen=True, kw_only=True)
class Interpolate(Task):
    """Strip k has `frames` images from end k to end k + 1, both counted.

    Without `image` the ends are generated images k and k + 1 of the same seed, to the bit, and
    all noise between is mixed on a circle, whatever the sampler. With pictures they are these,
    encoded by the ODE and mixed along an arc, so that the ends are the pictures themselves; or,
    with `strength`, they are noised up to this time with noise mixed on a circle, and the ends
    are variations. `pairs` is the number of strips without pictures.
    """

    inputs: InputImages
    image: Names | None = None
    pairs: int = 4
    frames: int = 9
    strength: float | None = None
    resize: bool = False
    encoded: dict[torch.device, Tensor] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        at_least("pairs", self.pairs, 1)
        at_least("frames", self.frames, 2)
        if self.strength is not None:
            check_strength(self.strength)
        if self.strength is not None and self.image is None:
            raise UsageError("task.strength is for pictures: give task.image=, or leave it out")
        if len(self.end_labels or ()) > 1:
            check_takes_steps(self.sampler, "going from label to label")

    @cached_property
    def given(self) -> LoadedImages | None:
        """The pictures at the ends, if any."""
        if self.image is None:
            return None
        found = self.inputs.load(self.image, self.resize)
        if len(found) < 2:
            raise UsageError("task.image: take two pictures or more, to have something between")
        return found

    @property
    def end_labels(self) -> Sequence[int] | None:
        """The labels that the ends take by turns."""
        if self.labels or self.image is not None:
            return self.labels
        return range(self.num_classes) or None

    @cached_property
    def path_times(self) -> Tensor:
        if self.strength is None:
            return self.times
        return from_strength(self.denoiser.schedule, self.times, self.strength)

    @property
    def count(self) -> int:
        return self.frames * (len(self.given) - 1 if self.given else self.pairs)

    @property
    def content(self) -> str:
        return digest(self.given.pixels) if self.given else ""

    @property
    def unconditional(self) -> bool:
        return not self.end_labels

    def draw(self, images: Sequence[int], device: torch.device) -> Tensor:
        share, first = shares(self.frames, images), [i // self.frames for i in images]
        ends = first, [k + 1 for k in first]
        label, other = (on(by_turns(self.end_labels, end), device) for end in ends)
        noise = MixedNoise(self.noise(ends[0]), self.noise(ends[1]), share)
        x = self.start_states(ends, share, noise, device)
        sampler = self.sampler.with_fixed_step(self.denoiser.schedule, self.times)
        denoiser = mix_labels(self.denoiser, label, other, share)
        arc = self.given is not None and self.strength is None
        return sampler(denoiser, x, self.path_times, label, noiseless if arc else noise)

    def start_states(
        self, ends: Ends, share: Tensor, noise: MixedNoise, device: torch.device
    ) -> Tensor:
        """The states (B, C, H, W) between two ends at the first of the times."""
        if self.given is None:
            return self.begin(self.blank(ends[0], device), noise)
        if self.strength is None:
            latents = self.latents(self.given, device)
            return slerp(latents[ends[0]], latents[ends[1]], share)
        pictures = self.pixel_range.to_model(self.given.pixels).to(device)
        x0 = lerp(pictures[ends[0]], pictures[ends[1]], share)
        alpha, sigma = self.denoiser.schedule.at(self.path_times[0], x0)
        return alpha * x0 + sigma * noise(x0)

    def latents(self, given: LoadedImages, device: torch.device) -> Tensor:
        """The pictures encoded, (N, C, H, W), at the first call."""
        if device not in self.encoded:
            x0 = self.pixel_range.to_model(given.pixels).to(device)
            label = on(by_turns(self.end_labels, range(len(given))), device)
            self.encoded[device] = encode(self.sampler, self.denoiser, x0, self.times, label)
        return self.encoded[device]

    def files(self, images: Tensor) -> dict[str, Tensor]:
        strips, shown = images.unflatten(0, (-1, self.frames)), {}
        for k, strip in enumerate(strips):
            shown[f"strip_{k:03}.png"] = joined(strip[None])
            shown[f"strip_{k:03}.gif"] = enlarge(strip, 256)
        if self.given:
            ends = self.given.pixels[:-1, None], self.given.pixels[1:, None]
            strips = torch.cat([ends[0], strips, ends[1]], 1)
        return {"samples.png": joined(strips[:ROWS]), **shown}
