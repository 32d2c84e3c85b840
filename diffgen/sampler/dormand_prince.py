"""One step of the Runge-Kutta pair of fifth and fourth order (Dormand and Prince 1980)."""

from collections.abc import Callable

import torch
from torch import Tensor

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


def stride(
    field: Callable[[Tensor, Tensor], Tensor], z: Tensor, k: Tensor, a: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """z (B, C, H, W) at a + step (B,), its slope there and its error, in six calls of the field.

    dz/da = field(z, a), which at the start is k.
    """
    ks, ahead, wide = [k], z, match(step, z)
    for row in ROWS:
        ahead = z + wide * total(row, ks)
        ks.append(field(ahead, a + sum(row) * step))
    return ahead, ks[-1], wide * total(ERROR, ks)


def total(shares: tuple[float, ...], ks: list[Tensor]) -> Tensor:
    """The sum of slopes, weighted."""
    return sum((share * k for share, k in zip(shares, ks, strict=True)), torch.zeros(()))
