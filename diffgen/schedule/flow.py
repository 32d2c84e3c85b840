"""The straight path of flow matching (Lipman et al. 2023, example II; Liu et al. 2023)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from diffgen.errors import UsageError
from diffgen.schedule.base import Schedule


@dataclass(frozen=True, kw_only=True)
class Flow(Schedule):
    """alpha = 1 - s, sigma = s with s = shift t / (1 + (shift - 1) t); nothing is left at t = 1.

    The velocity of a straight path from image to noise is eps - x0, whatever s. `shift` above 1
    puts more of the times, in training and in sampling, where the noise is large, and multiplies
    sigma / alpha at every t (Esser et al. 2024, equation 23: the square root of the ratio of
    pixels to those at which 1 is right; 3 at 1024 x 1024 latents).
    """

    shift: float = 1.0
    t_min: float = 1e-3

    levels: ClassVar[None] = None  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        if not (0 < self.shift < float("inf") and 0 < self.t_min < 1):
            raise UsageError(
                "schedule=flow needs schedule.shift above 0 and 0 < schedule.t_min < 1, not "
                f"{self.shift} and {self.t_min}"
            )

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - t.double()) / self._scale(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.shift * t.double() / self._scale(t)

    def _scale(self, t: Tensor) -> Tensor:
        return 1 + (self.shift - 1) * t.double()
