"""The probability-flow ODE by an adaptive Runge-Kutta pair (Dormand and Prince 1980)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from diffgen.model import Denoiser
from diffgen.sampler.angle import angle, norm, slope
from diffgen.sampler.base import Noise, Sampler, within
from diffgen.schedule.base import match

ROWS = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@dataclass(frozen=True)
class RK45(Sampler):
    """Steps as long as the error of each stays below `tolerance`, absolute and relative.

    None is longer than a tenth of the way, or the estimate of the error misses what lies between.
    Angle, step and error norm are each image's own, so that it does not depend on its company;
    images that have arrived cost nothing more.
    """

    tolerance: float = 1e-5
    spacing = "ends"

    def __post_init__(self) -> None:
        within("tolerance", self.tolerance, 1e-12, 1)

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
            i = rest.to(z.device)
            left = end - a[rest]
            step = torch.where(h[rest].abs() < left.abs(), h[rest], left)
            ks, ahead = [k[i]], z[i]
            for row in ROWS:
                ahead = z[i] + match(step, z) * total(row, ks)
                part = label if label is None else label[i]
                ks.append(slope(denoiser, ahead, a[rest] + sum(row) * step, part))
            size = self.tolerance * (1 + torch.maximum(z[i].abs(), ahead.abs()))
            error = match(step, z) * total(ERROR, ks) / size
            error = error.double().square().flatten(1).mean(1).sqrt().cpu()
            if not error.isfinite().all():
                raise FloatingPointError("the network's estimate is not finite")
            good = error <= 1
            done, arrived = rest[good], i[good.to(i.device)]
            a[done] = torch.where(step == left, end, a[rest] + step)[good]
            z[arrived], k[arrived] = (f[good.to(i.device)] for f in (ahead, ks[-1]))
            h[rest] = (step * (0.9 * error**-0.2).clamp(0.2, 5)).clamp(-longest, longest)
        return norm(denoiser.schedule, s) * z


def total(shares: tuple[float, ...], ks: list[Tensor]) -> Tensor:
    """The sum of slopes, weighted."""
    return sum((share * k for share, k in zip(shares, ks, strict=True)), torch.zeros(()))
