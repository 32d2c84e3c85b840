"""What the variance-preserving schedules given by a table of betas share.

DDPM's q(x_k | x_{k-1}) = N(sqrt(1 - beta_k) x_{k-1}, beta_k) gives alpha_k^2 = prod (1 - beta)
(Ho et al. 2020, equation 4); here level k of T sits at t = k / T.
"""

import abc
import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.schedule.base import Schedule, check_terminal_snr


@dataclass(frozen=True)
class Remedies:
    """What to change where a beta is not above 0, where one reaches 1, and where the last level
    still shows the image."""

    low: str
    high: str
    visible: str


@dataclass(frozen=True, kw_only=True)
class Discrete(Schedule):
    """A variance-preserving schedule from `betas()`; ln alpha is linear in t between levels.

    `zero_snr` shifts and scales alpha so that the last level is pure noise and the first stays
    (Lin et al. 2024, algorithm 1); alpha itself is then linear in t between levels. It needs a
    network that predicts x0 or v, as eps says nothing there.
    """

    levels: int = 1000  # pyright: ignore[reportIncompatibleVariableOverride]
    zero_snr: bool = False

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise UsageError(f"schedule.levels={self.levels}: take 2 or more")
        betas = self.betas()
        if not (betas.min() > 0 and betas.max() < 1):
            remedy = self.remedies.high if betas.min() > 0 else self.remedies.low
            raise UsageError(
                f"{self.levels} levels have betas from {betas.min():.3g} to {betas.max():.3g}, "
                f"and each must lie inside (0, 1): {remedy}"
            )
        check_terminal_snr(self, self.remedies.visible)

    @abc.abstractmethod
    def betas(self) -> Tensor:
        """Variance added at each level, (levels,) float64 inside (0, 1)."""

    @property
    @abc.abstractmethod
    def remedies(self) -> Remedies:
        """What to say of betas that cannot be."""

    @property
    def t_min(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 / self.levels

    def alpha(self, t: Tensor) -> Tensor:
        value = interpolate(self._table, t)
        return value if self.zero_snr else value.exp()

    def sigma(self, t: Tensor) -> Tensor:
        value = interpolate(self._table, t)
        return (1 - value**2).sqrt() if self.zero_snr else torch.expm1(2 * value).abs().sqrt()

    @functools.cached_property
    def _table(self) -> Tensor:
        """alpha with `zero_snr`, else ln alpha, at the image and at each level, (levels + 1,)."""
        log_alpha = torch.log1p(-self.betas()).cumsum(0) / 2
        if not self.zero_snr:
            return torch.cat([log_alpha.new_zeros(1), log_alpha])
        alpha = log_alpha.exp()
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        return torch.cat([alpha.new_ones(1), alpha])


def interpolate(table: Tensor, t: Tensor) -> Tensor:
    """Values (...) of `table` (n + 1,), held at times k / n, linear in between."""
    position = t.to(table) * (len(table) - 1)
    below = position.long().clamp(max=len(table) - 2)
    return torch.lerp(table[below], table[below + 1], position - below)


def rescaling(key: str, top: float, levels: int, rescale: bool) -> Remedies:
    """Remedies of betas that are stated for 1000 levels; `top`, under `key`, is the greatest."""
    more = f"take schedule.levels={math.floor(1000 * top) + 1} or more, " if rescale else ""
    helps = not rescale and 1000 * top < levels < 1000
    scaled = "take schedule.rescale=true, " if helps else ""
    low = key if key == "schedule.beta" else f"schedule.beta_min and {key}"
    return Remedies(
        low=f"take {low} above 0",
        high=f"{more}lower {key}, or take schedule=cosine",
        visible=f"{scaled}raise {key}, or take schedule=cosine",
    )


@dataclass(frozen=True, kw_only=True)
class Ramp(Discrete, abc.ABC):
    """Betas from `beta_min` to `beta_max`, which are stated for 1000 levels.

    With another number of levels the ends are scaled by 1000 / levels, so that the last level is
    as noisy (Dhariwal and Nichol 2021's code does the same); `rescale=false` keeps them.
    """

    beta_min: float = 1e-4
    beta_max: float = 0.02
    rescale: bool = True

    @property
    def ends(self) -> tuple[float, float]:
        """The first and the last beta at this number of levels."""
        scale = 1000 / self.levels if self.rescale else 1.0
        return scale * self.beta_min, scale * self.beta_max

    @property
    def remedies(self) -> Remedies:
        return rescaling("schedule.beta_max", self.beta_max, self.levels, self.rescale)
