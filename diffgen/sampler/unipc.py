"""UniPC (Zhao et al. 2023, algorithms 5 and 6, data prediction)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler.base import Noise, Sampler, first_order, log_snrs

Point = tuple[Tensor, Tensor]  # ln(alpha / sigma) and the estimate of x0 there
KERNELS: dict[str, Callable[[Tensor], Tensor]] = {"bh1": lambda h: h, "bh2": torch.expm1}


@dataclass(frozen=True)
class UniPC(Sampler):
    """Predictor of `order`, and a corrector that lifts it by one without another evaluation.

    `kernel` is the paper's B(h): bh1 = h, bh2 = e^h - 1. Orders rise step by step at the start and
    fall toward the image: where the first step does not lie at nearly pure noise, or the last at
    nearly none, the order seen is lower, 3 to 4 with the corrector.
    """

    order: Literal[1, 2, 3] = 3
    kernel: Literal["bh1", "bh2"] = "bh2"
    corrector: bool = True
    spacing = "trailing"
    finer = "log_snr"

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None, noise: Noise
    ) -> Iterator[Tensor]:
        schedule, log_snr = denoiser.schedule, log_snrs(denoiser.schedule, times)
        to_image = len(times) if times[-1] == 0 else math.inf
        order, base, past = 0, x, list[Point]()
        for k, (t, s) in enumerate(pairwise(times)):
            now = log_snr[k], denoiser(x, t, label)
            if past and self.corrector:
                x = first_order(schedule, base, past[0][1], times[k - 1], t)
                x = x + schedule.alpha(t) * self.correction(past[0], [*past[1:order], now], now[0])
            base, past = x, [now, *past[:2]]
            order = int(min(self.order, k + 1, to_image - 1 - k))
            x = first_order(schedule, x, past[0][1], t, s)
            if order > 1:
                end = log_snr[k + 1]
                x = x + schedule.alpha(s) * self.correction(past[0], past[1:order], end)
            yield x

    def correction(self, start: Point, others: Sequence[Point], log_snr: Tensor) -> Tensor:
        """What other estimates of x0 add to the first-order step from `start`, over alpha."""
        step = start[0] - log_snr
        kernel = KERNELS[self.kernel](step)
        r = torch.stack([(start[0] - other) / step for other, _ in others])
        slopes = [(x0 - start[1]) / r[j] for j, (_, x0) in enumerate(others)]
        terms = (w * d for w, d in zip(weights(r, step, kernel), slopes, strict=True))
        return -kernel * sum(terms, torch.zeros(()))


def weights(r: Tensor, step: Tensor, kernel: Tensor) -> Tensor:
    """rho (n,) from R rho = b (theorem 3.1), for points at r (n,) steps from the start.

    step is minus h. One point gets 1/2, as the paper takes it.
    """
    if len(r) == 1:
        return torch.full_like(r, 0.5)
    phi, b = step.expm1() / step - 1, list[Tensor]()
    for i in range(1, len(r) + 1):
        b.append(phi * math.factorial(i) / kernel)
        phi = phi / step - 1 / math.factorial(i + 1)
    powers = torch.stack([r**i for i in range(len(r))])
    return cast(Tensor, torch.linalg.solve(powers, torch.stack(b)))  # pyright: ignore[reportUnknownMemberType]
