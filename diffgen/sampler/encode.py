"""Encoding: from an image to the noise that a deterministic sampler turns into it."""

from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.errors import UsageError
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
