"""Precision and recall: the share of one set that lies on the manifold of the other.

Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models (2019),
section 2: a set's manifold is the union of the balls around its points that reach their k-th
nearest neighbour within the set.
"""

import torch
from torch import Tensor

from diffgen.errors import UsageError

NUMBERS_AT_ONCE = 2**24


def precision(generated: Tensor, real: Tensor, k: int = 3) -> float:
    """The share of `generated` (N, d) on the manifold of `real` (M, d): quality."""
    return _covered(generated, real, _radii(real, k)).double().mean().item()


def recall(generated: Tensor, real: Tensor, k: int = 3) -> float:
    """The share of `real` (M, d) on the manifold of `generated` (N, d): diversity."""
    return precision(real, generated, k)


def _radii(points: Tensor, k: int) -> Tensor:
    """Distances (N,) from each point to its k-th nearest other one."""
    if len(points) <= k:
        raise UsageError(f"precision and recall need more than {k} images, not {len(points)}")
    radii = []
    for rows in _blocks(len(points), len(points)):
        distances = torch.cdist(points[rows], points)
        distances[torch.arange(len(rows)), rows] = torch.inf
        radii.append(distances.topk(k, largest=False).values[:, -1])
    return torch.cat(radii)


def _covered(points: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """Whether each point lies in at least one ball, (N,) bool."""
    blocks = _blocks(len(points), len(centres))
    return torch.cat([(torch.cdist(points[r], centres) <= radii).any(1) for r in blocks])


def _blocks(rows: int, columns: int) -> tuple[Tensor, ...]:
    return torch.arange(rows).split(max(1, NUMBERS_AT_ONCE // columns))
