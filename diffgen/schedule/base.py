"""What every schedule is: two functions of time, alpha (signal) and sigma (noise), both scales.

x_t = alpha(t) x0 + sigma(t) eps with t = 0 the image and t = 1 the noise; alpha(0) = 1 and
sigma(0) = 0 for every schedule, and alpha / sigma falls all the way. Times are float64 on the CPU
and the arithmetic stays there, so that no device needs float64; `at` alone moves results.
"""

import abc

import torch
from torch import Tensor

from diffgen.errors import UsageError

VISIBLE = 0.05  # above this the last level still shows the image, and sampling starts wrong


class Schedule(abc.ABC):
    """A pair of functions alpha(t), sigma(t); subclasses are frozen dataclasses."""

    t_min: float
    """The smallest time a network ever sees; no time lies inside (0, t_min)."""

    levels: int | None
    """How many levels training uses, level i at t = (i + 1) / levels; None: all times."""

    @abc.abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the signal at t (...), float64, 1 at t = 0."""

    @abc.abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Scale of the noise at t (...), float64, 0 at t = 0."""

    def log_snr(self, t: Tensor) -> Tensor:
        """ln(alpha / sigma) at t (...), float64: +inf at the image, falling with t."""
        return self.alpha(t).log() - self.sigma(t).log()

    def time(self, log_snr: Tensor) -> Tensor:
        """The t in [0, 1] (...) at which ln(alpha / sigma) equals `log_snr`, to 2^-60.

        The interval that holds it is cut in 32 twelve times, which costs far less on small
        tensors than halving it sixty times.
        """
        low, width = torch.zeros_like(log_snr, dtype=torch.float64), 1.0
        cuts = torch.arange(1, 32, dtype=torch.float64) / 32
        for _ in range(12):
            too_clean = self.log_snr(low[..., None] + width * cuts) > log_snr[..., None]
            width /= 32
            low = low + width * too_clean.sum(-1)
        return low + width

    def level(self, t: Tensor) -> Tensor:
        """Index of t (...) among the training levels, 0 (least noise) to levels - 1, fractional.

        Values within 1e-6 of a level are that level: truncating t * levels would miss some.
        """
        assert self.levels is not None, "a continuous schedule has no levels"
        level = t * self.levels - 1
        nearest = level.round()
        return torch.where((level - nearest).abs() < 1e-6, nearest, level)

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at t, () or (B,), shaped and cast to multiply `like` (B, ...)."""
        return match(self.alpha(t), like), match(self.sigma(t), like)


def check_terminal_snr(schedule: Schedule, remedy: str) -> None:
    """UsageError with the remedy where a variance-preserving schedule shows the image at t = 1."""
    last = schedule.alpha(torch.tensor(1.0, dtype=torch.float64)).item()
    if last > VISIBLE:
        raise UsageError(
            f"the last level keeps {last:.2f} of the image's scale (limit {VISIBLE}): {remedy}"
        )


def match(value: Tensor, like: Tensor) -> Tensor:
    """A coefficient () or (B,) cast and shaped to multiply `like` (B, ...)."""
    return value.to(like).reshape((*value.shape, *(1,) * (like.ndim - 1)) if value.ndim else ())
