"""Schedules: how noise is mixed into an image.

    x_t = alpha(t) x0 + sigma(t) eps,    t = 0 the image, t = 1 the noise

alpha and sigma are scales (DDPM's alpha-bar is alpha^2), in float64, with alpha(0) = 1 and
sigma(0) = 0. lambda(t) = ln(alpha / sigma), half the logarithm of the signal-to-noise ratio, falls
from +inf, and `Schedule.time` is its inverse.

- Variance preserving, alpha^2 + sigma^2 = 1: linear, quadratic, constant, cosine, sigmoid,
  sigmoid_beta (tables of betas, see `discrete` and `ramp`) and vp (continuous), which can have
  less noise than that (sub-VP).
- Variance exploding, alpha = 1: geometric and ncsnv2 (levels), ve and edm (continuous).
- The straight path, alpha + sigma = 1: flow (continuous).

Level i of L, counted from 1 for the least noise, is at t = i / L. No network is called inside
(0, t_min). `Schedule.at` alone casts and shapes alpha and sigma for a batch. `spacing` chooses the
times of a sampler.
"""

from diffgen.schedule.base import Schedule

__all__ = ["Schedule"]
