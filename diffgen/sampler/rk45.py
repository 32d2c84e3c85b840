"""The probability-flow ODE by an adaptive Runge-Kutta pair (Dormand and Prince 1980)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler.angle import angle, norm, slope
from diffgen.sampler.base import Noise, Sampler, check_range
from diffgen.schedule.base import match

STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)  # weights of the slopes so far; the last row is the fifth-order solution
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@dataclass(frozen=True)
class RK45(Sampler):
    """Steps as long as the error of each stays below `tolerance`, absolute and relative.

    No step is longer than a tenth of the interval, or the estimate of the error misses what lies
    between. Angle, step and error are each image's own; images at the end cost nothing more.
    """

    tolerance: float = 1e-5
    spacing = "ends"
    takes_steps = False

    def __post_init__(self) -> None:
        check_range("tolerance", self.tolerance, 1e-12, 1)

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        for t, s in pairwise(times):
            x = self.solve(denoiser, x, t, s, label) if s > 0 else denoiser(x, t, label)
            yield x

    def solve(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None
    ) -> Tensor:
        """x at s > 0 from x at t."""
        end, z = angle(denoiser.schedule, s), x / norm(denoiser.schedule, t)
        a = angle(denoiser.schedule, t).repeat(len(x))
        h, longest = (end - a) / 50, float((end - a[0]).abs()) / 10
        k = slope(denoiser, z, a, label)
        while len(active := (a != end).nonzero()[:, 0]):
            # One step of each image that is not at the end, on its own angle a.
            i, remaining = active.to(z.device), end - a[active]
            step = torch.where(h[active].abs() < remaining.abs(), h[active], remaining)
            field = partial(slope, denoiser, label=label if label is None else label[i])
            z_next, k_next, error = runge_kutta(field, z[i], k[i], a[active], step)
            # The root mean square over an image of the error, 1 being the tolerance.
            scale = self.tolerance * (1 + torch.maximum(z[i].abs(), z_next.abs()))
            error = (error / scale).cpu().double().square().flatten(1).mean(1).sqrt()
            if not error.isfinite().all():
                raise FloatingPointError("the network's estimate is not finite")
            # Accept what is within it; the next step follows the fifth root of the error.
            good = error <= 1
            a[active[good]] = torch.where(step == remaining, end, a[active] + step)[good]
            accepted = good.to(z.device)
            z[i[accepted]], k[i[accepted]] = z_next[accepted], k_next[accepted]
            h[active] = (step * (0.9 * error**-0.2).clamp(0.2, 5)).clamp(-longest, longest)
        return norm(denoiser.schedule, s) * z


def runge_kutta(
    field: Callable[[Tensor, Tensor], Tensor], z: Tensor, k: Tensor, a: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """z (B, C, H, W) at a + step (B,), its slope there and its error, in six calls of the field.

    dz/da = field(z, a), which at the start is k.
    """
    slopes, z_stage, h = [k], z, match(step, z)
    for row in STAGES:
        z_stage = z + h * weighted_sum(row, slopes)
        slopes.append(field(z_stage, a + sum(row) * step))
    return z_stage, slopes[-1], h * weighted_sum(ERROR, slopes)


def weighted_sum(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """The sum of slopes, weighted."""
    return sum((w * k for w, k in zip(weights, slopes, strict=True)), torch.zeros(()))
