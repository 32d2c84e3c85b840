"""A denoiser in other axes of colour."""

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser


class Turned(Denoiser):
    """A denoiser of c = axes x, channels turned by an orthogonal matrix `axes` (C, C).

    Noise is the same in all axes, so that schedule and samplers need not know.
    """

    def __init__(self, denoiser: Denoiser, axes: Tensor) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.axes = denoiser, denoiser.schedule, axes

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        x0 = self.denoiser(turn(x_t, self.axes.T), t, label)
        return turn(x0, self.axes)


def turn(x: Tensor, axes: Tensor) -> Tensor:
    """axes (C, C) times the channels of x (B, C, H, W)."""
    return torch.einsum("dc,bchw->bdhw", axes.to(x), x)


def grey_first(channels: int) -> Tensor:
    """An orthogonal matrix (C, C) float64 whose first row is grey, 1 / sqrt(C) in each channel."""
    start = torch.eye(channels, dtype=torch.float64)
    start[:, 0] = 1
    axes, signs = torch.linalg.qr(start)
    return (axes * signs.diagonal().sign()).T
