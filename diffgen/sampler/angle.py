"""The probability-flow ODE (Song et al. 2021, equation 13) where it is evenest: over an angle.

With a = atan(sigma / alpha) and z = x / sqrt(alpha^2 + sigma^2) it reads
dz/da = (cos(a) z - x0) / sin(a), finite from alpha = 0 on down, and z keeps about unit size.
"""

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.schedule import Schedule
from diffgen.schedule.base import match


def angle(schedule: Schedule, t: Tensor) -> Tensor:
    """atan(sigma / alpha) at t (...), from 0 at the image up to pi / 2."""
    return torch.atan2(schedule.sigma(t), schedule.alpha(t))


def norm(schedule: Schedule, t: Tensor) -> Tensor:
    """sqrt(alpha^2 + sigma^2) at t (...), which is x / z: 1 where variance is preserved."""
    return torch.hypot(schedule.alpha(t), schedule.sigma(t))


def slope(denoiser: Denoiser, z: Tensor, a: Tensor, label: Tensor | None) -> Tensor:
    """dz/da (B, C, H, W) at angles a (B,) above 0."""
    t = denoiser.schedule.time(-a.tan().log())
    x0 = denoiser(match(norm(denoiser.schedule, t), z) * z, t, label)
    return (match(a.cos(), z) * z - x0) / match(a.sin(), z)
