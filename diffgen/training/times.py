"""The times a batch is trained at: functions (u (B,), schedule) -> t (B,), u uniform on [0, 1)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.schedule import Schedule

Times = Callable[[Tensor, Schedule], Tensor]


def uniform(u: Tensor, schedule: Schedule) -> Tensor:
    """Every level alike (Ho et al. 2020, algorithm 1); uniform on [t_min, 1] without levels."""
    if schedule.levels:
        return ((u * schedule.levels).floor() + 1) / schedule.levels
    return schedule.t_min + u * (1 - schedule.t_min)


def antithetic(u: Tensor, schedule: Schedule) -> Tensor:
    """As uniform, the second half of the batch mirrored (DDIM's code): t and its opposite."""
    half = (len(u) + 1) // 2
    top = 1 - torch.finfo(u.dtype).eps
    mirrored = torch.cat([u[:half], (1 - u[: len(u) - half]).clamp(max=top)])
    return uniform(mirrored, schedule)


def stratified(u: Tensor, schedule: Schedule) -> Tensor:
    """One time in each of B equal strata (Kingma et al. 2021, appendix I.1): a steadier loss."""
    index = torch.arange(len(u), dtype=u.dtype)
    return uniform((u[0] + index / len(u)) % 1, schedule)


@dataclass(frozen=True)
class LogNormal:
    """ln(sigma / alpha) normal (Karras et al. 2022, table 1), kept inside [t_min, 1]."""

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        log_sigma = self.mean + self.std * torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))
        return schedule.time(-log_sigma).clamp(schedule.t_min, 1)


def clean(u: Tensor, schedule: Schedule) -> Tensor:
    """No noise at all, for a classifier of clean images."""
    return torch.zeros_like(u)


TIMES: dict[str, Times] = {f.__name__: f for f in (uniform, antithetic, stratified)} | {
    "log_normal": LogNormal()
}


def drawing(name: str, mean: float, std: float) -> Times:
    """The times of this name; log-normal ones of this mean and deviation of ln(sigma / alpha)."""
    return LogNormal(mean, std) if name == "log_normal" else TIMES[name]
