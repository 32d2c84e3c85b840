"""Exact likelihoods by the instantaneous change of variables (Song et al. 2021, appendix D.2).

Along the probability-flow ODE dz/da = f(z, a) the log-density changes by the divergence of f. The
model's density of an image is that of the noise at the end of its ODE, plus the integral of the
divergence.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.errors import UsageError
from diffgen.sampler.angle import angle, norm, slope
from diffgen.sampler.base import Sampler


def encode(
    sampler: Sampler, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None = None
) -> Tensor:
    """The state (B, C, H, W) at times[0] that leads to the images x at times[-1].

    `times` fall as for sampling and are walked backward. No network is called at t = 0: from
    there to the next time the noise is what the network finds in the image at that time
    (Song et al. 2021, section 4.3). UsageError where the sampler draws noise.
    """
    rising = times.flip(0)
    if rising[0] == 0:
        rising = rising[1:]
        alpha, sigma = denoiser.schedule.at(rising[0], x)
        x = alpha * x + sigma * _noise_in(denoiser, alpha * x, rising[0], label)
    return sampler(denoiser, x, rising, label, noiseless)


def _noise_in(denoiser: Denoiser, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
    return denoiser.eps(x, t, label).detach()


def noiseless(like: Tensor) -> Tensor:
    """No noise at all: UsageError."""
    raise UsageError(
        "this sampler draws noise, and only one that draws none can be encoded with or tuned; "
        "take sampler=ddim, heun, dpmpp_2m or another without noise"
    )


Field = Callable[[Tensor], Tensor]  # z (B, C, H, W) -> dz/da
Divergence = Callable[[Field, Tensor], tuple[Tensor, Tensor]]  # field, z -> field(z), trace (B,)


def exact(field: Field, z: Tensor) -> tuple[Tensor, Tensor]:
    """The field at z and the trace of its Jacobian (B,), one backward pass a pixel."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = field(z)
        rows = [
            torch.autograd.grad(part.sum(), z, retain_graph=True)[0].flatten(1)[:, k]
            for k, part in enumerate(value.flatten(1).unbind(1))
        ]
    return value.detach(), torch.stack(rows).sum(0)


def hutchinson(probe: Tensor) -> Divergence:
    """The trace estimated by one random probe (B, C, H, W) an image, of mean 0 and variance 1."""

    def estimate(field: Field, z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = field(z)
            (vjp,) = torch.autograd.grad((value * probe).sum(), z)
        return value.detach(), (vjp * probe).flatten(1).sum(1)

    return estimate


def log_density(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    divergence: Divergence = exact,
    label: Tensor | None = None,
) -> Tensor:
    """ln p(x) in nats (B,), of images x (B, C, H, W) taken as states at the last time above 0.

    `times` fall as for sampling, and each interval is one step of the classical fourth-order
    Runge-Kutta method over the angle: 4 evaluations with their divergences.
    """
    schedule, rising = denoiser.schedule, times[times > 0].flip(0)
    z, log_det = x / norm(schedule, rising[0]), torch.zeros(len(x), dtype=torch.float64)
    for t, s in pairwise(angle(schedule, rising)):
        step, ks, traces = s - t, list[Tensor](), list[Tensor]()
        for part in (0, 0.5, 0.5, 1):
            at = (t + part * step).expand(len(x))
            z_stage = z + part * step * ks[-1] if ks else z
            k, trace = divergence(lambda z, at=at: slope(denoiser, z, at, label), z_stage)
            ks.append(k)
            traces.append(trace.cpu().double())
        z = z + step / 6 * (ks[0] + 2 * ks[1] + 2 * ks[2] + ks[3])
        log_det = log_det + step / 6 * (traces[0] + 2 * traces[1] + 2 * traces[2] + traces[3])
    deviation = float(angle(schedule, rising[-1]).sin())
    squares = z.cpu().double().square().flatten(1).sum(1)
    count = x[0].numel()
    prior = -squares / (2 * deviation**2) - count * math.log(deviation * (2 * math.pi) ** 0.5)
    return prior + log_det - count * float(norm(schedule, rising[0]).log())


def bits_per_dim(log_density: Tensor, count: int, width: float) -> Tensor:
    """Bits per number (B,) of images whose `count` numbers were dequantised, from ln p(x).

    width: of one grey level in the model's range, over which uniform noise was spread: 2 / 256
    where bytes u became 2 (u + noise) / 256 - 1.
    """
    return -(log_density / count + math.log(width)) / math.log(2)
