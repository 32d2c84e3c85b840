"""DEIS: exponential integrators of the noise's extrapolation (Zhang and Chen 2023)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler.base import Noise, Sampler, first_order, log_snrs


@dataclass(frozen=True)
class DEIS(Sampler):
    """Adams-Bashforth of `order`: eps is extrapolated as a polynomial in ln(alpha / sigma).

    Of the paper's variants tAB takes a polynomial in t and rhoAB one in sigma / alpha; this one is
    diffusers', which depends on the noise alone and not on how a schedule counts time.

    With y = x / alpha and u = sigma / alpha, dy/du = eps is integrated exactly for it. The first
    steps are of lower order, and the step to the image is of first: where these do not lie at
    nearly pure noise and at nearly none, their error bounds the whole, and the order seen is 2.
    """

    order: Literal[1, 2, 3, 4] = 3
    spacing = "trailing"
    finer = "log_snr"

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        schedule, log_snr = denoiser.schedule, log_snrs(denoiser.schedule, times)
        past: list[Tensor] = []
        for k, (t, s) in enumerate(pairwise(times)):
            x0 = denoiser(x, t, label)
            alpha, sigma = schedule.at(t, x)
            past = [(x - alpha * x0) / sigma, *past[: self.order - 1]]
            if len(past) == 1 or s == 0:
                x = first_order(schedule, x, x0, t, s)
            else:
                coefs = weights(log_snr[k + 1 - len(past) : k + 2].flip(0))
                alpha_ratio = schedule.alpha(s) / schedule.alpha(t)
                terms = (w * eps for w, eps in zip(coefs, past, strict=True))
                x = alpha_ratio * (x - schedule.sigma(t) * sum(terms, torch.zeros(())))
            yield x


def weights(log_snr: Tensor) -> Tensor:
    """Coefficients (n,) of the last n values of eps in -integral of eps du, over u at the start.

    log_snr (n + 1,) holds the end of the step, its start, and the points before, in this order.
    """
    step, nodes = log_snr[0] - log_snr[1], log_snr[1:] - log_snr[1]
    powers = torch.arange(len(nodes), dtype=torch.float64)[:, None]
    points, quadrature = (torch.from_numpy(f) for f in np.polynomial.legendre.leggauss(16))  # pyright: ignore[reportUnknownMemberType]
    inside = step * (points + 1) / 2
    integrals = (inside**powers * (-inside).exp() * quadrature).sum(1) * step / 2
    return cast(Tensor, torch.linalg.solve(nodes**powers, integrals))  # pyright: ignore[reportUnknownMemberType]
