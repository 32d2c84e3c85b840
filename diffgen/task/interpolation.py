"""Between two noises, images or labels; mixed noise keeps unit variance."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser, Wrapper
from diffgen.sampler import SeededNoise
from diffgen.schedule.base import match


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
