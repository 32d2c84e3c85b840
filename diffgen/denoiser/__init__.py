"""Denoisers: x0_hat(x_t, t, label), the estimate of the image in a noisy one.

    eps = (x_t - alpha x0) / sigma,    score = (alpha x0 - x_t) / sigma^2 = -eps / sigma

are affine in x0, so that a `Denoiser` has one method to write and three views to read, and
whatever edits x0 (guidance, `Clipped`, conditioning on known pixels) is a denoiser too.

A raw network F becomes a denoiser by `Preconditioned`:

    x0 = c_skip x_t + c_out F(c_in x_t, c_noise, label)

`prediction` has the coefficients (c_skip, c_out, c_in) of what F stands for (eps, score, x0, v,
flow, EDM's), on every schedule, and the target a x0 + b eps that F learns; `noise_input` has
c_noise, what F gets of the noise level. `learned_variance` reads a network's second half of
channels.
`NoisyClassifier` is not a denoiser: it gives the logits by which classifier guidance works.
"""

from diffgen.denoiser.base import Clipped, Denoiser, Preconditioned, Wrapper

__all__ = ["Clipped", "Denoiser", "Preconditioned", "Wrapper"]
