"""A denoiser between two labels."""

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.task.mixed import lerp


class Blended(Denoiser):
    """(1 - share) D(x, label) + share D(x, other), row by row; share (B,), other (B,)."""

    def __init__(self, denoiser: Denoiser, other: Tensor, share: Tensor) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.other, self.share = other, share

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        one = self.denoiser(x_t, t, label)
        return lerp(one, self.denoiser(x_t, t, self.other), self.share)


def blended(
    denoiser: Denoiser, label: Tensor | None, other: Tensor | None, share: Tensor
) -> Denoiser:
    """The denoiser between two labels, itself where these are the same."""
    if label is None or other is None or torch.equal(label, other):
        return denoiser
    return Blended(denoiser, other, share)
