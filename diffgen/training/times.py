"""The times a batch is trained at: functions (u (B,), schedule) -> t (B,), u uniform on [0, 1)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor

from diffgen.schedule import Schedule

Times = Callable[[Tensor, Schedule], Tensor]


@dataclass(frozen=True)
class Uniform:
    """Every level alike (Ho et al. 2020, algorithm 1); uniform on [t_min, 1] without levels."""

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        if schedule.levels:
            return ((u * schedule.levels).floor() + 1) / schedule.levels
        return schedule.t_min + u * (1 - schedule.t_min)


@dataclass(frozen=True)
class Antithetic:
    """As uniform, the second half of the batch mirrored (DDIM's code): t and its opposite."""

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        half = (len(u) + 1) // 2
        top = 1 - torch.finfo(u.dtype).eps
        mirrored = torch.cat([u[:half], (1 - u[: len(u) - half]).clamp(max=top)])
        return Uniform()(mirrored, schedule)


@dataclass(frozen=True)
class Stratified:
    """One time in each of B equal strata (Kingma et al. 2021, appendix I.1): a steadier loss."""

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        index = torch.arange(len(u), dtype=u.dtype)
        return Uniform()((u[0] + index / len(u)) % 1, schedule)


@dataclass(frozen=True)
class LogNormal:
    """ln(sigma / alpha) normal (Karras et al. 2022, table 1), kept inside [t_min, 1].

    mean: of ln(sigma / alpha), where an image of this size and deviation takes shape.
    std: its standard deviation.
    """

    mean: FiniteFloat = -1.2
    std: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.2

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        log_sigma = self.mean + self.std * torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))
        return schedule.time(-log_sigma).clamp(schedule.t_min, 1)


@dataclass(frozen=True)
class LogitNormal:
    """ln(t / (1 - t)) normal (Esser et al. 2024, equation 19), kept inside [t_min, 1].

    On schedule=flow it is `log_normal` with ln(schedule.shift) added to the mean, so that a shift
    moves training, too.

    mean: of ln(t / (1 - t)); above 0 there is more training at much noise.
    std: its standard deviation.
    """

    mean: FiniteFloat = 0.0
    std: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        logit = self.mean + self.std * torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))
        return logit.sigmoid().clamp(schedule.t_min, 1)


def clean(u: Tensor, schedule: Schedule) -> Tensor:
    """No noise at all, for a classifier of clean images."""
    return torch.zeros_like(u)
