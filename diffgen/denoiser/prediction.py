"""How a raw network F estimates the image: x0 = c_skip x_t + c_out F(c_in x_t, c_noise).

The predictions hold on every schedule, in float64 coefficients of the shape of alpha and sigma; on
variance-preserving ones they are the papers' parametrisations.
"""

import abc
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

Coefficients = tuple[Tensor, Tensor, Tensor]


class Prediction(abc.ABC):
    """What F is: (c_skip, c_out, c_in) as functions of (alpha, sigma)."""

    @abc.abstractmethod
    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        """c_skip, c_out and c_in, each of the shape of alpha."""


@dataclass(frozen=True)
class Eps(Prediction):
    """F is the noise (Ho et al. 2020, equation 11)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        return 1 / alpha, -sigma / alpha, _unit(alpha, sigma)


@dataclass(frozen=True)
class Score(Prediction):
    """F is sigma times the score; F / sigma is NCSNv2's technique 3 (Song and Ermon 2020)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        return 1 / alpha, sigma / alpha, torch.ones_like(alpha)


@dataclass(frozen=True)
class RawScore(Prediction):
    """F is the score itself, of the size of 1 / sigma (Song and Ermon 2019)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        return 1 / alpha, sigma**2 / alpha, torch.ones_like(alpha)


@dataclass(frozen=True)
class X0(Prediction):
    """F is the image."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        return torch.zeros_like(alpha), torch.ones_like(alpha), _unit(alpha, sigma)


@dataclass(frozen=True)
class V(Prediction):
    """F is the velocity alpha eps - sigma x0, over the norm (Salimans and Ho 2022, appendix D)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        unit = _unit(alpha, sigma)
        return alpha * unit**2, -sigma * unit, unit


@dataclass(frozen=True)
class Flow(Prediction):
    """F is the velocity eps - x0 of the straight path (Lipman et al. 2023, example II).

    The network sees x_t / (alpha + sigma), on every schedule a point of that path.
    """

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        unit = 1 / (alpha + sigma)
        return unit, -sigma * unit, unit


@dataclass(frozen=True)
class Edm(Prediction):
    """F has unit variance in and out at every level (Karras et al. 2022, table 1).

    `sigma_data` is the standard deviation of the data in the model's range.
    """

    measured: ClassVar = ("sigma_data",)

    sigma_data: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        unit = (alpha**2 * self.sigma_data**2 + sigma**2).rsqrt()
        return alpha * self.sigma_data**2 * unit**2, sigma * self.sigma_data * unit, unit


def target_of(coefficients: Coefficients, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (a, b) of what F learns, a x0 + b eps.

    From x0 = c_skip x_t + c_out F with x_t = alpha x0 + sigma eps; the noise is never recovered
    by subtracting images.
    """
    c_skip, c_out, _ = coefficients
    return (1 - c_skip * alpha) / c_out, -c_skip * sigma / c_out


def _unit(alpha: Tensor, sigma: Tensor) -> Tensor:
    return (alpha**2 + sigma**2).rsqrt()
