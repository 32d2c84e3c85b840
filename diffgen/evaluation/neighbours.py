"""Metrics by nearest neighbours: precision, recall, density, coverage.

The manifold of a set is the union of balls around its points, each of which reaches the k-th
nearest other point of the set.
"""

import torch
from torch import Tensor

from diffgen.dataset.images import Pixels
from diffgen.errors import UsageError

K = 3  # of precision and recall
K_DENSITY = 5  # of density and coverage
NUMBERS_AT_ONCE = 2**24  # distances held in memory


def share_on_manifold(points: Tensor, others: Tensor, k: int = K) -> float:
    """The share of `points` (N, d) on the manifold of `others` (M, d).

    Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models
    (2019), section 2. It gives precision and, of the reference's, recall.
    """
    reach = radii(others, k)
    covered = [
        (torch.cdist(points[rows], others) <= reach).any(1)
        for rows in _blocks(len(points), len(others))
    ]
    return torch.cat(covered).double().mean().item()


def density_and_coverage(
    points: Tensor, others: Tensor, k: int = K_DENSITY
) -> tuple[float, float]:
    """How many balls of `others` (M, d) each of `points` (N, d) lies in; how many hold one.

    The first over k, so that it is 1 where both sets have one law, and may exceed 1; the second as
    a share. Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models (2020),
    equations 5 and 6.
    """
    reach, inside, covered = radii(others, k), 0, torch.zeros(len(others), dtype=torch.bool)
    for rows in _blocks(len(points), len(others)):
        held = torch.cdist(points[rows], others) < reach
        inside += int(held.sum())
        covered |= held.any(0)
    return inside / (k * len(points)), covered.double().mean().item()


def radii(points: Tensor, k: int) -> Tensor:
    """Distances (N,) from each point to its k-th nearest other one."""
    if len(points) <= k:
        raise UsageError(f"nearest neighbours need more than {k} images, not {len(points)}")
    found = []
    for rows in _blocks(len(points), len(points)):
        distances = torch.cdist(points[rows], points)
        distances[torch.arange(len(rows)), rows] = torch.inf
        found.append(distances.topk(k, largest=False).values[:, -1])
    return torch.cat(found)


def nearest(points: Tensor, others: Tensor, but: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The distance (N,) of each of `points` to the nearest of `others`, and its number (N,).

    but: the number (N,) of the one that does not count for each, as a point's own.
    """
    found = []
    for rows in _blocks(len(points), len(others)):
        apart = torch.cdist(points[rows], others)
        if but is not None:
            apart[torch.arange(len(rows)), but[rows]] = torch.inf
        found.append(apart.min(1))
    return torch.cat([part.values for part in found]), torch.cat([p.indices for p in found])


def nearest_images(
    images: Pixels, others: Pixels, but: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same of uint8 images (N, C, H, W) by the root mean square of differences from 0 to 1.

    Both are read in parts. The nearest one is found in float32, its distance then exactly.
    """
    (count, *shape), total = images.shape, others.shape[0]
    size = max(1, NUMBERS_AT_ONCE // torch.Size(shape).numel())
    least = torch.full((count,), torch.inf)
    number = torch.zeros(count, dtype=torch.int64)
    for theirs in torch.arange(total).split(size):
        real = _centred(others[theirs])
        for mine in torch.arange(count).split(min(size, NUMBERS_AT_ONCE // len(theirs))):
            x = _centred(images[mine])
            apart = real.square().sum(1) - 2 * x @ real.T + x.square().sum(1)[:, None]
            if but is not None:
                at = but[mine] - theirs[0]
                own = ((at >= 0) & (at < len(theirs))).nonzero().flatten()
                apart[own, at[own]] = torch.inf
            value, place = apart.min(1)
            nearer = value < least[mine]
            least[mine[nearer]] = value[nearer]
            number[mine[nearer]] = theirs[place[nearer]]
    exact = [
        (images[rows].double() - others[number[rows]].double()).flatten(1).square().mean(1).sqrt()
        for rows in torch.arange(count).split(size)
    ]
    return torch.cat(exact) / 255, number


def _centred(images: Tensor) -> Tensor:
    return images.flatten(1).float() - 127.5


def _blocks(rows: int, columns: int) -> tuple[Tensor, ...]:
    return torch.arange(rows).split(max(1, NUMBERS_AT_ONCE // columns))
