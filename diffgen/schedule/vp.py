"""The continuous variance-preserving schedule and sub-VP (Song et al. 2021, equations 33, 34)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.schedule.base import Schedule, check_terminal_snr


@dataclass(frozen=True, kw_only=True)
class VP(Schedule):
    """The rate beta(t) climbs evenly from `beta_min` to `beta_max`: DDPM's with endless levels.

    `sub` makes it sub-VP, of the same alpha and less noise: sigma = 1 - alpha^2.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    sub: bool = False

    levels: ClassVar[None] = None  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        if not (0 < self.beta_min < self.beta_max and 0 < self.t_min < 1):
            raise UsageError(
                "schedule=vp needs 0 < schedule.beta_min < schedule.beta_max and 0 < "
                f"schedule.t_min < 1, not {self.beta_min}, {self.beta_max} and {self.t_min}"
            )
        check_terminal_snr(self, "raise schedule.beta_max, or take schedule=cosine")

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        variance = torch.expm1(2 * self._log_alpha(t)).abs()
        return variance if self.sub else variance.sqrt()

    def _log_alpha(self, t: Tensor) -> Tensor:
        t = t.double()
        return -(t**2) * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2
