"""How a raw network F becomes an estimate of the image: x0 = skip x_t + out F(in_ x_t, told).

The scalings hold on every schedule, in float64 coefficients of the shape of alpha and sigma; on
variance-preserving ones they are the papers' parametrisations.
"""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

Coefficients = tuple[Tensor, Tensor, Tensor]


class Scaling(abc.ABC):
    """(skip, out, in_) as functions of (alpha, sigma)."""

    @abc.abstractmethod
    def __call__(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        """skip, out and in_, each of the shape of alpha."""


@dataclass(frozen=True)
class Eps(Scaling):
    """F is the noise (Ho et al. 2020, equation 11)."""

    def __call__(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        return 1 / alpha, -sigma / alpha, _unit(alpha, sigma)


@dataclass(frozen=True)
class Score(Scaling):
    """F is sigma times the score; F / sigma is NCSNv2's technique 3 (Song and Ermon 2020)."""

    def __call__(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        return 1 / alpha, sigma / alpha, torch.ones_like(alpha)


@dataclass(frozen=True)
class RawScore(Scaling):
    """F is the score itself, of the size of 1 / sigma (Song and Ermon 2019)."""

    def __call__(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        return 1 / alpha, sigma**2 / alpha, torch.ones_like(alpha)


@dataclass(frozen=True)
class X0(Scaling):
    """F is the image."""

    def __call__(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        return torch.zeros_like(alpha), torch.ones_like(alpha), _unit(alpha, sigma)


@dataclass(frozen=True)
class V(Scaling):
    """F is the velocity alpha eps - sigma x0, over the norm (Salimans and Ho 2022, appendix D)."""

    def __call__(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        unit = _unit(alpha, sigma)
        return alpha * unit**2, -sigma * unit, unit


@dataclass(frozen=True)
class Edm(Scaling):
    """F has unit variance in and out at every level (Karras et al. 2022, table 1).

    `sigma_data` is the standard deviation of the data in the model's range.
    """

    sigma_data: float = 0.5

    def __call__(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        unit = (alpha**2 * self.sigma_data**2 + sigma**2).rsqrt()
        return alpha * self.sigma_data**2 * unit**2, sigma * self.sigma_data * unit, unit


def target_of(coefficients: Coefficients, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (a, b) of what F learns, a x0 + b eps.

    From x0 = skip x_t + out F with x_t = alpha x0 + sigma eps; the noise is never recovered by
    subtracting images.
    """
    skip, out, _ = coefficients
    return (1 - skip * alpha) / out, -skip * sigma / out


def _unit(alpha: Tensor, sigma: Tensor) -> Tensor:
    return (alpha**2 + sigma**2).rsqrt()


SCALINGS: dict[str, type[Scaling]] = {
    "eps": Eps,
    "score": Score,
    "raw_score": RawScore,
    "x0": X0,
    "v": V,
    "edm": Edm,
}
