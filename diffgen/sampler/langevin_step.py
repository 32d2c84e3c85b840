"""The step size of annealed Langevin dynamics from its budget (Song and Ermon 2020, section 3.4).

On Gaussian noise of standard deviation gamma sigma, which is what the level above leaves behind,
`inner` steps of size rate sigma^2 leave the variance sigma^2 times

    (1 - rate)^(2 inner) (gamma^2 - k) + k,    k = 2 rate / (1 - (1 - rate)^2) = 1 / (1 - rate / 2)

(proposition 3 and technique 4, with rate = epsilon / sigma_L^2). It is above 1 for every rate in
(0, 1), so that the paper's "as near to 1 as possible" is a minimum and not a root.
"""

import math

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.sampler.base import log_snrs
from diffgen.schedule import Schedule


def variance_ratio(rate: Tensor, gamma: float, inner: int) -> Tensor:
    """Variance (...) after a level over the level's own sigma^2, for rates (...) in (0, 2)."""
    limit = 1 / (1 - rate / 2)
    return (1 - rate) ** (2 * inner) * (gamma**2 - limit) + limit


def best_rate(gamma: float, inner: int) -> float:
    """epsilon / sigma_L^2 in (0, 1) at which the variance ratio is least, to six digits.

    The minimum is flat, so that float64 tells no more digits apart.
    """
    low, high = -30.0, 0.0
    for _ in range(8):
        logs = torch.linspace(low, high, 201, dtype=torch.float64)
        best = int(variance_ratio(logs.exp(), gamma, inner).argmin())
        low, high = float(logs[max(best - 2, 0)]), float(logs[min(best + 2, 200)])
    return math.exp((low + high) / 2)


def gamma(schedule: Schedule, times: Tensor) -> float:
    """Mean ratio of neighbouring levels sigma / alpha among the times above 0."""
    log_snr = log_snrs(schedule, times[times > 0])
    if len(log_snr) < 2:
        raise UsageError("sampler.epsilon=auto needs steps=2 or more; or give a number")
    return float(((log_snr[-1] - log_snr[0]) / (len(log_snr) - 1)).exp())
