"""Known pixels by moment matching (Rozet et al. 2024, section 4.2)."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser


class Conditioned(Denoiser):
    """E[x0 | x_t, known pixels], where the law of x0 given x_t is taken for a Gaussian.

    Its covariance is sigma^2 / alpha times the denoiser's Jacobian J (Tweedie's second formula),
    so that the estimate moves by J A' (A J A' + d)^-1 (image - x0) with A the choice of the known
    pixels and d = alpha (error / sigma)^2. `solves` iterations of conjugate gradients find it:
    one forward and `solves` + 1 backward passes a call. For a Gaussian it is exact.

    error: standard deviation of what is known, in the model's range.
    """

    def __init__(
        self, denoiser: Denoiser, image: Tensor, known: Tensor, error: float, solves: int
    ) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.image, self.known, self.error, self.solves = image, known, error, solves

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = self.schedule.at(t, x_t)
        damping = alpha * (self.error / sigma) ** 2
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            x0 = self.denoiser(x, t, label)

        def spread(v: Tensor) -> Tensor:
            return torch.autograd.grad(x0, x, v, retain_graph=True)[0]

        def seen(v: Tensor) -> Tensor:
            return torch.where(self.known, spread(v), 0) + damping * v

        missing = torch.where(self.known, self.image - x0.detach(), 0)
        moved = x0.detach() + spread(solved(seen, missing, self.solves))
        return torch.where(self.known, self.image, moved)


def solved(matrix: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """v (B, C, H, W) with matrix(v) = b by conjugate gradients, for each image by itself.

    An image stops where it has arrived, or where the matrix turns out not to be positive.
    """
    v, rest = torch.zeros_like(b), b
    way, size = rest, _dot(rest, rest)
    for _ in range(iterations):
        moved = matrix(way)
        bend = _dot(way, moved)
        step = torch.where((bend > 0) & (size > 0), size / bend, 0)
        v, rest = v + step * way, rest - step * moved
        left = _dot(rest, rest)
        way = rest + torch.where(step > 0, left / size, 0) * way
        size = torch.where(step > 0, left, 0)
    return v


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2, 3), keepdim=True)
