"""What every sampler is, and the steps that most of them are made of."""

import abc
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.errors import UsageError
from diffgen.schedule import Schedule

Noise = Callable[[Tensor], Tensor]


class Sampler(abc.ABC):
    """Frozen settings of a way back; it holds no model, no times and no random state."""

    spacing: ClassVar[str]  # what `spacing=auto` means for it
    finer: ClassVar[str | None] = None  # the same for more steps than levels; None: refused
    start: ClassVar[Literal["prior", "uniform"]] = "prior"  # what `start=auto` means for it

    @property
    def takes_steps(self) -> bool:
        """Whether it takes the steps it is given; else it chooses its own between the ends."""
        return self.spacing != "ends"

    def deterministic(self) -> "Sampler":
        """The same sampler with its fresh noise off, itself where no setting turns it off."""
        return self

    def warning(self, schedule: Schedule, steps: int) -> str | None:
        """What is likely to disappoint in so many steps, with the remedy."""
        return None

    @abc.abstractmethod
    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        """The state (B, C, H, W) after each interval of `times` (steps + 1,).

        x is the state at times[0]; `noise(x)` draws unit normal noise of the shape of x.
        """

    @torch.no_grad()
    def __call__(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Tensor:
        """The state (B, C, H, W) at times[-1]."""
        for state in self.trajectory(denoiser, x, times, label, noise):
            x = state
        return x


def check_range(name: str, value: float, low: float, high: float) -> None:
    """UsageError unless low <= value <= high."""
    if not low <= value <= high:
        raise UsageError(f"sampler.{name}={value}: it must lie between {low} and {high}")


def first_order(schedule: Schedule, x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x at s, for a constant estimate x0 between t and s: DDIM's step (Song et al. 2021, eq. 12).

    x_s = (sigma_s / sigma_t) x + (alpha_s - alpha_t sigma_s / sigma_t) x0, finite at alpha_t = 0
    and at sigma_s = 0.
    """
    ratio = schedule.sigma(s) / schedule.sigma(t)
    return ratio * x + (schedule.alpha(s) - schedule.alpha(t) * ratio) * x0


def posterior_mean(schedule: Schedule, x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Mean of x_s given x_t and x0 (Ho et al. 2020, equation 7): x0 at s = 0."""
    kept = schedule.alpha(t) / schedule.alpha(s) * (schedule.sigma(s) / schedule.sigma(t)) ** 2
    return kept * x + (schedule.alpha(s) - kept * schedule.alpha(t)) * x0


def posterior_variance(schedule: Schedule, t: Tensor, s: Tensor) -> Tensor:
    """Variance of x_s given x_t and x0 (Ho et al. 2020, equation 7): 0 at s = 0."""
    return (schedule.sigma(s) / schedule.sigma(t)) ** 2 * added_variance(schedule, t, s)


def added_variance(schedule: Schedule, t: Tensor, s: Tensor) -> Tensor:
    """Variance that the noising adds from s to t > s: sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2.

    On variance-preserving schedules it is 1 - (alpha_t / alpha_s)^2, DDPM's beta.
    """
    shrink = schedule.alpha(t) / schedule.alpha(s)
    return schedule.sigma(t) ** 2 - shrink**2 * schedule.sigma(s) ** 2


Variance = Callable[[Schedule, Tensor, Tensor], Tensor]
VARIANCES: dict[str, Variance] = {
    "fixedsmall": posterior_variance,
    "fixedlarge": added_variance,
}


def few_steps(schedule: Schedule, steps: int) -> bool:
    """Whether steps are fewer than half of the training levels; 1000 where time flows."""
    return 2 * steps < (schedule.levels or 1000)


def variance_warning(variance: str, schedule: Schedule, steps: int) -> str | None:
    """The doubt about a `variance` that is too large for so many ancestral steps."""
    if variance != "fixedlarge" or not few_steps(schedule, steps):
        return None
    return (
        f"sampler.variance=fixedlarge leaves noise in {steps} steps; take fixedsmall, or half of "
        "the training levels and more"
    )


def log_snrs(schedule: Schedule, times: Tensor) -> Tensor:
    """ln(alpha / sigma) at times (n,), from -12 up, so that differences stay finite.

    Below it no trace of the image is left; at t = 0 it is +inf.
    """
    return schedule.log_snr(times).clamp(min=-12)


def noised(schedule: Schedule, x: Tensor, s: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """x_s carried on to the later time t > s by the noising process, with unit normal `noise`."""
    shrink = schedule.alpha(t) / schedule.alpha(s)
    return shrink * x + added_variance(schedule, t, s).clamp(min=0).sqrt() * noise
