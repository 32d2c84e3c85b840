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
    """Frozen settings of a method; it holds no model, no times and no random state."""

    spacing: ClassVar[str]  # what `spacing=auto` means for it
    finer: ClassVar[str | None] = None  # the same for more steps than levels; None: refused
    start: ClassVar[Literal["prior", "uniform"]] = "prior"  # what `start=auto` means for it
    takes_steps: ClassVar[bool] = True  # else it chooses its own between the ends
    resamplings: ClassVar[int] = 5  # how often inpainting by replacement repeats each interval
    clips_by_default: ClassVar[bool] = True  # whether `clip=auto` may clip its estimates of x0

    def deterministic(self) -> "Sampler":
        """The same sampler without noise; itself where no setting turns the noise off."""
        return self

    def keeps_times(self) -> bool:
        """Whether it asks the denoiser at the times it is given, and at no others."""
        return True

    def warning(self, schedule: Schedule, steps: int) -> str | None:
        """What is likely to give poor images in so many steps, with the remedy."""
        return None

    def with_fixed_step(self, schedule: Schedule, times: Tensor) -> "Sampler":
        """The same sampler, its step size fixed for all `times`, to run on parts of them."""
        return self

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
        """The state (B, C, H, W) at times[-1]; FloatingPointError where one is not finite."""
        for step, state in enumerate(self.trajectory(denoiser, x, times, label, noise), 1):
            if not bool(state.isfinite().all()):
                raise FloatingPointError(
                    f"images are not finite after step {step} of {len(times) - 1}, at t = "
                    f"{float(times[min(step, len(times) - 1)]):.4g}: the network gives NaN or "
                    "infinity there; take other weights (ema=raw, an earlier checkpoint) or "
                    "precision=32-true"
                )
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
    coef_x = schedule.alpha(t) / schedule.alpha(s) * (schedule.sigma(s) / schedule.sigma(t)) ** 2
    return coef_x * x + (schedule.alpha(s) - coef_x * schedule.alpha(t)) * x0


def posterior_variance(schedule: Schedule, t: Tensor, s: Tensor) -> Tensor:
    """Variance of x_s given x_t and x0 (Ho et al. 2020, equation 7): 0 at s = 0."""
    return (schedule.sigma(s) / schedule.sigma(t)) ** 2 * added_variance(schedule, t, s)


def added_variance(schedule: Schedule, t: Tensor, s: Tensor) -> Tensor:
    """Variance that the noising adds from s to t > s: sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2.

    On variance-preserving schedules it is 1 - (alpha_t / alpha_s)^2, DDPM's beta.
    """
    alpha_ratio = schedule.alpha(t) / schedule.alpha(s)
    return schedule.sigma(t) ** 2 - alpha_ratio**2 * schedule.sigma(s) ** 2


Variance = Callable[[Schedule, Tensor, Tensor], Tensor]
VARIANCES: dict[str, Variance] = {
    "fixedsmall": posterior_variance,
    "fixedlarge": added_variance,
}


def few_steps(schedule: Schedule, steps: int) -> bool:
    """Whether steps are fewer than half of the levels, which are 1000 where time is continuous."""
    return 2 * steps < (schedule.levels or 1000)


def variance_warning(variance: str, schedule: Schedule, steps: int) -> str | None:
    """The warning of a `variance` that is too large for so many ancestral steps."""
    if VARIANCES.get(variance) is not added_variance or not few_steps(schedule, steps):
        return None
    return (
        f"sampler.variance={variance} leaves noise in {steps} steps; take fixedsmall, or half of "
        "the training levels and more"
    )


def lowest_variance(schedule: Schedule, times: Tensor) -> float:
    """sigma_L^2, the variance of the noise at the lowest level that a network sees."""
    return float(schedule.sigma(times.new_tensor(schedule.t_min))) ** 2


def log_snrs(schedule: Schedule, times: Tensor) -> Tensor:
    """ln(alpha / sigma) at times (n,), from -12 up, so that differences stay finite.

    Below it no trace of the image is left; at t = 0 it is +inf.
    """
    return schedule.log_snr(times).clamp(min=-12)


def noised(schedule: Schedule, x: Tensor, s: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """x_s noised on to the later time t > s, with unit normal `noise`."""
    alpha_ratio = schedule.alpha(t) / schedule.alpha(s)
    return alpha_ratio * x + added_variance(schedule, t, s).clamp(min=0).sqrt() * noise
