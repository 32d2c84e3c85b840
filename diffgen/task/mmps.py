"""Moment matching posterior sampling, MMPS (Rozet et al. 2024, section 4.2)."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser, Wrapper


class MMPSDenoiser(Wrapper):
    """E[x0 | x_t, known pixels], if x0 given x_t were Gaussian.

    Its covariance is sigma^2 / alpha times the denoiser's Jacobian J (Tweedie's second formula),
    so that the estimate moves by J A' (A J A' + d)^-1 (image - x0) with A the choice of the known
    pixels and d = alpha (error / sigma)^2. `solves` iterations of conjugate gradients find it:
    one forward and `solves` + 1 backward passes a call. For a Gaussian it is exact.

    error: standard deviation of what is known, in the model's range.
    """

    def __init__(
        self, denoiser: Denoiser, image: Tensor, known: Tensor, error: float, solves: int
    ) -> None:
        super().__init__(denoiser)
        self.image, self.known, self.error, self.solves = image, known, error, solves

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = self.schedule.at(t, x_t)
        damping = alpha * (self.error / sigma) ** 2
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            x0 = self.denoiser(x, t, label)

        def jacobian(v: Tensor) -> Tensor:
            return torch.autograd.grad(x0, x, v, retain_graph=True)[0]

        def system(v: Tensor) -> Tensor:
            return torch.where(self.known, jacobian(v), 0) + damping * v

        residual = torch.where(self.known, self.image - x0.detach(), 0)
        x0_posterior = x0.detach() + jacobian(conjugate_gradients(system, residual, self.solves))
        return torch.where(self.known, self.image, x0_posterior)


def conjugate_gradients(matrix: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """v (B, C, H, W) with matrix(v) = b by conjugate gradients, for each image by itself.

    An image stops where its residual is 0, or where the matrix turns out not to be positive.
    """
    v, residual = torch.zeros_like(b), b
    direction, size = residual, _dot(residual, residual)
    for _ in range(iterations):
        product = matrix(direction)
        curvature = _dot(direction, product)
        step = torch.where((curvature > 0) & (size > 0), size / curvature, 0)
        v, residual = v + step * direction, residual - step * product
        new_size = _dot(residual, residual)
        direction = residual + torch.where(step > 0, new_size / size, 0) * direction
        size = torch.where(step > 0, new_size, 0)
    return v


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2, 3), keepdim=True)
