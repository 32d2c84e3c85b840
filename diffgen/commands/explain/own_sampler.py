"""What the model's own sampler will do: its times, its cost, its step size."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffgen.config.parts import SamplerSettings
from diffgen.config.recipe import DenoiserRecipe
from diffgen.denoiser.base import Preconditioned
from diffgen.denoiser.evaluations import RowCount
from diffgen.sampler import SeededNoise
from diffgen.sampler.langevin import Langevin, best_rate, gamma, variance_ratio
from diffgen.sampling.plan import SamplingPlan, plan_of
from diffgen.schedule import Schedule


@dataclass(frozen=True)
class LangevinSteps:
    """Annealed Langevin dynamics at every level: `inner` steps of epsilon (sigma / sigma_L)^2.

    `left` is the variance after a level over sigma^2 (technique 4), for noise from the level
    above, `ratio` times as great; `best` the epsilon that brings it nearest to 1 and `least` what
    it is then. All in the convention of the papers' code.
    """

    ratio: float
    inner: int
    epsilon: float
    left: float
    best: float
    least: float


@dataclass(frozen=True)
class OwnSampler:
    """The sampler `name` on `times` (steps + 1,); `nfe` per image, None where it adapts."""

    name: str
    settings: dict[str, Any]
    times: list[float]
    nfe: int | None
    langevin: LangevinSteps | None
    warning: str | None

    @property
    def steps(self) -> int:
        return len(self.times) - 1


def own_sampler(
    settings: SamplerSettings, recipe: DenoiserRecipe, schedule: Schedule
) -> OwnSampler:
    """How the sampler with these settings goes on this model."""
    how = settings.build(), settings.steps, recipe.model, schedule
    plan = plan_of(*how, spacing=settings.spacing)
    sampler, times = plan.sampler, plan.times
    langevin = None
    if isinstance(sampler, Langevin) and len(times) > 2:
        langevin = _langevin(sampler, schedule, times)
    nfe = evaluations(plan, recipe, schedule) if plan.steps is not None else None
    options = dict(settings.choice.settings) if settings.choice else {}
    return OwnSampler(
        settings.name, options, times.tolist(), nfe, langevin, plan.warning(schedule)
    )


def evaluations(plan: SamplingPlan, recipe: DenoiserRecipe, schedule: Schedule) -> int:
    """Network evaluations per image, counted on a network that costs nothing."""
    count, x = RowCount(ZeroNetwork()), torch.zeros(1, 1, 1, 1)
    denoiser = Preconditioned(count, schedule, recipe.prediction.build(), lambda schedule, t: None)
    with torch.no_grad():  # the states themselves mean nothing
        for _ in plan.sampler.trajectory(denoiser, x, plan.times, None, SeededNoise(0, range(1))):
            pass
    return count.rows


def _langevin(sampler: Langevin, schedule: Schedule, times: Tensor) -> LangevinSteps:
    rate, ratio = sampler.rate(schedule, times), gamma(schedule, times)
    lowest = float(schedule.sigma(times.new_tensor(schedule.t_min))) ** 2
    best = best_rate(ratio, sampler.inner)
    left = [float(variance_ratio(torch.tensor(r), ratio, sampler.inner)) for r in (rate, best)]
    return LangevinSteps(ratio, sampler.inner, rate * lowest, left[0], best * lowest, left[1])


class ZeroNetwork(nn.Module):
    """A network that says 0 to everything."""

    def forward(self, x: Tensor, c_noise: Tensor | None, label: Tensor | None) -> Tensor:
        return torch.zeros_like(x)
