"""The probability-flow ODE by an adaptive Runge-Kutta pair (Dormand and Prince 1980)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler.angle import angle, norm, slope
from diffgen.sampler.base import Noise, Sampler, check_range
from diffgen.sampler.dormand_prince import stride


@dataclass(frozen=True)
class RK45(Sampler):
    """Steps as long as the error of each stays below `tolerance`, absolute and relative.

    None is longer than a tenth of the way, or the estimate of the error misses what lies between.
    Angle, step and error are each image's own; those that have arrived cost nothing more.
    """

    tolerance: float = 1e-5
    spacing = "ends"

    def __post_init__(self) -> None:
        check_range("tolerance", self.tolerance, 1e-12, 1)

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        for t, s in pairwise(times):
            x = self.carried(denoiser, x, t, s, label) if s > 0 else denoiser(x, t, label)
            yield x

    def carried(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None
    ) -> Tensor:
        """x at s > 0 from x at t."""
        end, z = angle(denoiser.schedule, s), x / norm(denoiser.schedule, t)
        a = angle(denoiser.schedule, t).repeat(len(x))
        h, longest = (end - a) / 50, float((end - a[0]).abs()) / 10
        k = slope(denoiser, z, a, label)
        while len(rest := (a != end).nonzero()[:, 0]):
            i, left = rest.to(z.device), end - a[rest]
            step = torch.where(h[rest].abs() < left.abs(), h[rest], left)
            field = partial(slope, denoiser, label=label if label is None else label[i])
            ahead, k_ahead, error = stride(field, z[i], k[i], a[rest], step)
            size = self.tolerance * (1 + torch.maximum(z[i].abs(), ahead.abs()))
            error = (error / size).double().square().flatten(1).mean(1).sqrt().cpu()
            if not error.isfinite().all():
                raise FloatingPointError("the network's estimate is not finite")
            good = error <= 1
            a[rest[good]] = torch.where(step == left, end, a[rest] + step)[good]
            there = good.to(z.device)
            z[i[there]], k[i[there]] = ahead[there], k_ahead[there]
            h[rest] = (step * (0.9 * error**-0.2).clamp(0.2, 5)).clamp(-longest, longest)
        return norm(denoiser.schedule, s) * z
