"""Encoding: from images up to noise, along the probability-flow ODE."""

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.model import Denoiser
from diffgen.sampler import Sampler
from diffgen.sampler.heun import Heun


def encoded(
    sampler: Sampler, denoiser: Denoiser, x0: Tensor, times: Tensor, label: Tensor | None
) -> Tensor:
    """The state (B, C, H, W) at times[0] from which the ODE leads back to x0.

    The way up is Heun's on the same times, from t_min, so that the error of a round trip is that
    of the way down; a sampler that chooses its own steps goes up itself.
    """
    schedule = denoiser.schedule
    lowest = times.new_tensor([schedule.t_min])
    inner = times[times > schedule.t_min + 1e-9]
    up = torch.cat([inner, lowest]).flip(0)
    upward = sampler if sampler.spacing == "ends" else Heun()
    alpha, _ = schedule.at(lowest[0], x0)
    return upward(denoiser, alpha * x0, up, label, no_noise)


def no_noise(like: Tensor) -> Tensor:
    """Refuses: what was encoded comes back only by a way without noise."""
    raise UsageError(
        "this sampler draws noise, and encoded pictures come back only without: take "
        "sampler=ddim, heun or another ODE solver, or task.strength=0.5 to noise the pictures"
    )
