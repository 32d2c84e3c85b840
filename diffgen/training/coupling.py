"""Which noise goes with which image: (x0 (b, C, H, W), eps, label (b,) or None) -> eps, reordered.

Noise drawn for each image alone makes the paths of a flow cross. The pairing of least squared
distance makes them straighter, so that fewer steps follow them (Pooladian et al. 2023; Tong et
al. 2024, "Improving and generalizing flow-based generative models", algorithm 3).
"""

from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Coupling = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def independent(x0: Tensor, eps: Tensor, label: Tensor | None) -> Tensor:
    """The noise as it was drawn."""
    return eps


def ot(x0: Tensor, eps: Tensor, label: Tensor | None) -> Tensor:
    """The noise in the order of least total squared distance from the images, exactly.

    It is exchanged among images of one label alone (the null label is one): else it would tell of
    the label, and a sample of that label, which starts from any noise, would not be like those
    that were learned. Among the images that one device holds at once.
    """
    order = torch.arange(len(x0), device=x0.device)
    label = torch.zeros_like(order) if label is None else label
    for rows in ((label == k).nonzero()[:, 0] for k in label.unique()):
        one, other = (each[rows].flatten(1).cpu().double() for each in (x0, eps))
        _, chosen = linear_sum_assignment(torch.cdist(one, other).square().numpy())
        order[rows] = rows[torch.from_numpy(chosen).to(rows.device)]
    return eps[order]


COUPLINGS: dict[str, Coupling] = {f.__name__: f for f in (independent, ot)}
