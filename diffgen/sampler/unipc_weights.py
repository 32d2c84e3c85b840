"""UniPC's weights of the differences of estimates (Zhao et al. 2023, theorem 3.1)."""

import math

import torch
from torch import Tensor


def weights(r: Tensor, step: Tensor, kernel: Tensor) -> Tensor:
    """rho (n,) from R rho = b, for points at r (n,) steps from the start; step is minus h.

    One point gets 1/2, as the paper takes it.
    """
    if len(r) == 1:
        return torch.full_like(r, 0.5)
    phi, b = step.expm1() / step - 1, []
    for i in range(1, len(r) + 1):
        b.append(phi * math.factorial(i) / kernel)
        phi = phi / step - 1 / math.factorial(i + 1)
    powers = torch.stack([r**i for i in range(len(r))])
    return torch.linalg.solve(powers, torch.stack(b))
