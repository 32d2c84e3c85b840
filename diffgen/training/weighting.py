"""How errors at different noise levels weigh: functions snr -> weight of the squared eps error.

snr = (alpha / sigma)^2. An error of x0 is an error of eps with snr for its weight, so the papers'
weights of x0 stand here divided by snr.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Weighting = Callable[[Tensor], Tensor]

GAMMA = 5.0  # where min-SNR caps (Hang et al. 2023)
SIGMA_DATA = 0.5  # of images in [-1, 1] (Karras et al. 2022)


def simple(snr: Tensor) -> Tensor:
    """All alike: DDPM's L_simple (Ho et al. 2020, equation 14) and sigma^2-weighted DSM."""
    return torch.ones_like(snr)


def velocity(snr: Tensor) -> Tensor:
    """The squared error of v: (1 + snr) on x0 (Salimans and Ho 2022, section 4)."""
    return (1 + snr) / snr


def min_snr(snr: Tensor) -> Tensor:
    """min(snr, 5) on x0 (Hang et al. 2023, equation 9)."""
    return snr.clamp(max=GAMMA) / snr


def soft_min_snr(snr: Tensor) -> Tensor:
    """5 snr / (snr + 5) on x0: min-SNR without the corner (Crowson et al. 2024)."""
    return GAMMA / (snr + GAMMA)


def edm(snr: Tensor) -> Tensor:
    """(s^2 + d^2) / (s d)^2 on x0, s = sigma / alpha, d = 0.5 (Karras et al. 2022, table 1)."""
    return (1 / snr + SIGMA_DATA**2) / SIGMA_DATA**2


WEIGHTINGS: dict[str, Weighting] = {
    f.__name__: f for f in (simple, velocity, min_snr, soft_min_snr, edm)
}
