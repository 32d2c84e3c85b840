"""The noise that a network sees, in units of the clean image: u = sigma / alpha."""

from dataclasses import dataclass

import torch

from diffgen.schedule import Schedule
from diffgen.schedule.ncsnv2 import overlap

TIMES = 1000  # times at which a schedule without levels is looked at


@dataclass(frozen=True)
class Ladder:
    """The noise `u` at the times `t` of training, least first, both (n,) float64 lists.

    `ratios` are those of neighbouring u and `overlaps` their C (technique 2), (n - 1,); empty for
    a schedule without levels. `terminal_alpha` is alpha at t = 1, sqrt(alpha-bar_T), and
    `snr` alpha^2 / sigma^2 at the first and the last time.
    """

    levels: int | None
    t: list[float]
    alpha: list[float]
    sigma: list[float]
    ratios: list[float]
    overlaps: list[float]

    @property
    def u(self) -> list[float]:
        return [s / a if a else float("inf") for a, s in zip(self.alpha, self.sigma, strict=True)]

    @property
    def terminal_alpha(self) -> float:
        return self.alpha[-1]

    @property
    def exploding(self) -> bool:
        """Whether the signal keeps its scale, as in NCSN."""
        return self.alpha[-1] == 1

    @property
    def snr(self) -> tuple[float, float]:
        return self.u[0] ** -2, self.u[-1] ** -2


def ladder_of(schedule: Schedule, dimension: int) -> Ladder:
    """The levels of a schedule, for images of `dimension` numbers."""
    count = schedule.levels or TIMES
    low = 1 / count if schedule.levels else schedule.t_min
    t = torch.linspace(low, 1, count, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    u = (sigma / alpha)[torch.isfinite(sigma / alpha)]
    ratios = (u[1:] / u[:-1]).tolist() if schedule.levels else []
    overlaps = [overlap(ratio, dimension) for ratio in ratios]
    levels = schedule.levels
    return Ladder(levels, t.tolist(), alpha.tolist(), sigma.tolist(), ratios, overlaps)
