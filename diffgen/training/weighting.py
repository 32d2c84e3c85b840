"""How errors at different noise levels weigh: (snr (B,), t (B,), schedule) -> weights (B,) of the
squared error of eps, float64; snr = (alpha / sigma)^2 at t.

An error of x0 is an error of eps with snr for its weight, so the papers' weights of x0 stand here
divided by snr; one of the score is weighted by sigma^-2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from diffgen.schedule import Schedule

Weighting = Callable[[Tensor, Tensor, Schedule], Tensor]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

STEP = 1e-5  # of time, for slopes


def snr_of(alpha: Tensor, sigma: Tensor) -> Tensor:
    """(alpha / sigma)^2 (...), never 0, for weights of x0 to stay finite as those of eps."""
    return ((alpha / sigma) ** 2).clamp(min=1e-20)


@dataclass(frozen=True)
class Simple:
    """All alike: DDPM's L_simple (Ho et al. 2020, equation 14) and sigma^2-weighted DSM."""

    def __call__(self, snr: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class Velocity:
    """The squared error of v: (1 + snr) on x0 (Salimans and Ho 2022, section 4)."""

    def __call__(self, snr: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        return 1 + 1 / snr


@dataclass(frozen=True)
class Flow:
    """The squared error of the velocity eps - x0: 1 / s^2 on x0, s = sigma / (alpha + sigma).

    s is at least `floor`: above 0 it tames the weight of a network that predicts x0 itself (Li and
    He 2025, whose code divides by no less than 0.05).
    """

    floor: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def __call__(self, snr: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        s = 1 / (1 + snr.sqrt())
        return 1 / (snr * s.clamp(min=self.floor) ** 2)


@dataclass(frozen=True)
class Likelihood:
    """g(t)^2 on the score (Song et al. 2021, "Maximum likelihood training", theorem 1).

    With t even on (0, 1] half the loss bounds the negative log-likelihood in nats, up to a
    constant, where it is a sum over pixels. At a training level g^2 is the variance that the
    noising adds from the level below, over the time between them.
    """

    def __call__(self, snr: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        if schedule.levels:
            return schedule.levels * _added_variance(schedule, t - 1 / schedule.levels, t)
        low, high = (t - STEP).clamp(min=schedule.t_min), (t + STEP).clamp(max=1)
        return 2 * (schedule.log_snr(low) - schedule.log_snr(high)) / (high - low)


def _added_variance(schedule: Schedule, s: Tensor, t: Tensor) -> Tensor:
    """Variance that the noising adds from s < t to t, over sigma_t^2: 1 - snr_t / snr_s."""
    ratio = schedule.alpha(t) * schedule.sigma(s) / (schedule.alpha(s) * schedule.sigma(t))
    return 1 - ratio**2


@dataclass(frozen=True)
class MinSnr:
    """min(snr, gamma) on x0 (Hang et al. 2023, equation 9)."""

    gamma: Positive = 5.0

    def __call__(self, snr: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        return snr.clamp(max=self.gamma) / snr


@dataclass(frozen=True)
class SoftMinSnr:
    """gamma snr / (snr + gamma) on x0: min-SNR without the corner (Crowson et al. 2024)."""

    gamma: Positive = 5.0

    def __call__(self, snr: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        return self.gamma / (snr + self.gamma)


@dataclass(frozen=True)
class Edm:
    """(s^2 + d^2) / (s d)^2 on x0, s = sigma / alpha (Karras et al. 2022, table 1).

    d = `sigma_data` is the data's deviation; with that of the prediction, the network's own error.
    """

    measured: ClassVar = ("sigma_data",)

    sigma_data: Positive = 0.5

    def __call__(self, snr: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        return 1 / (snr * self.sigma_data**2) + 1
