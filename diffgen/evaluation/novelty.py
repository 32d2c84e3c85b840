"""Whether images are copies of training images, by the distances to the nearest of them."""

import torch
from torch import Tensor

from diffgen.evaluation.neighbours import nearest


def authenticity(points: Tensor, training: Tensor) -> float:
    """The share of `points` (N, d) that are no copies: 1 - the share of copies.

    A copy is nearer to its nearest training point than that one is to any other. Alaa et al., How
    Faithful is your Synthetic Data? (2022), section 3.3; AuthPct is 100 times it.
    """
    apart, found = nearest(points, training)
    met = found.unique()
    spread = torch.empty(len(training), dtype=apart.dtype)
    spread[met] = _to_others(training, met)
    return (apart > spread[found]).double().mean().item()


def copying(points: Tensor, held_out: Tensor, training: Tensor) -> tuple[float, float]:
    """How often `points` are nearer to training points than held-out ones; and C_T.

    The share of pairs of a point and a held-out point in which the point is nearer, half where
    they are equally near: 0.5 for a perfect model, 1 for copies. C_T is its z-score with the sign
    turned: 0 give or take 1, and below -3 for a model that copies. Meehan et al., A Non-Parametric
    Test to Detect Data-Copying in Generative Models (2020), section 3, in one cell.
    """
    mine, theirs = nearest(points, training)[0], nearest(held_out, training)[0].sort().values
    farther = len(theirs) - torch.searchsorted(theirs, mine, right=True)
    equal = torch.searchsorted(theirs, mine, right=True) - torch.searchsorted(theirs, mine)
    pairs = len(mine) * len(theirs)
    share = float((farther + 0.5 * equal).sum()) / pairs
    deviation = ((len(mine) + len(theirs) + 1) / (12 * pairs)) ** 0.5
    return share, (0.5 - share) / deviation


def _to_others(points: Tensor, rows: Tensor) -> Tensor:
    """The distance from each of `rows` (R,) of `points` to the nearest other point."""
    found = []
    for part in rows.split(max(1, 2**24 // len(points))):
        distances = torch.cdist(points[part], points)
        distances[torch.arange(len(part)), part] = torch.inf
        found.append(distances.min(1).values)
    return torch.cat(found)
