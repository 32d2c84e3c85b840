"""Which images are taken, and in which order: random choices that are the same on every machine.

Orders and coins are functions of integer keys, read from the raw words of the Philox counter
generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): NumPy keeps that
stream fixed, which neither NumPy's nor PyTorch's `permutation` and `randint` promise.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SEED = 0  # never the run's seed: runs with other seeds must be scored on the same images


def words(count: int, *key: int) -> NDArray[np.uint64]:
    """`count` random 64-bit words of the key; a negative key counts from 2^64."""
    entropy = [int(part) % 2**64 for part in key]
    return np.random.Philox(np.random.SeedSequence(entropy)).random_raw(count)


def permutation(count: int, *key: int) -> NDArray[np.int64]:
    """The numbers 0 to count - 1 in the order of the key."""
    return np.argsort(words(count, *key), kind="stable")


def coins(count: int, *key: int) -> NDArray[np.bool_]:
    """`count` fair coins of the key; the first k of them do not depend on `count`."""
    return (words(count, *key) >> np.uint64(63)).astype(bool)


def holdout(count: int, fraction: float, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The indices (train, test), each in rising order, with round(fraction * count) in test.

    With labels (count,) the split is stratified by class, and one image of each class is left to
    train on, also where test then has fewer.
    """
    order = torch.from_numpy(permutation(count, SEED))
    cut = round(fraction * count)
    if labels is not None:
        depth = depth_in_class(labels[order])
        _, members = labels[order].unique(return_inverse=True)
        last = torch.zeros(len(members.unique()), dtype=depth.dtype)
        last.scatter_reduce_(0, members, depth, "amax")
        only = depth == last[members]
        order = order[torch.where(only, torch.inf, depth).argsort(stable=True)]
        cut = min(cut, count - int(only.sum()))
    return order[cut:].sort().values, order[:cut].sort().values


def depth_in_class(labels: Tensor) -> Tensor:
    """How far into its class each element lies, (N,) float64 in (0, 1), in the order given.

    Sorting by it spreads every class evenly: any front part is stratified to within an image.
    """
    _, members, counts = labels.unique(return_inverse=True, return_counts=True)
    together = members.argsort(stable=True)
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[members[together]]
    depth = torch.empty(len(labels), dtype=torch.float64)
    depth[together] = (rank.double() + 0.5) / counts[members[together]]
    return depth


def subset(total: int, count: int, seed: int = 0) -> Tensor:
    """`count` of the rows 0 to total - 1, without repetition, sorted, (count,) int64."""
    return _shuffled(total, seed)[:count].sort().values


def stratified_subset(labels: Tensor, count: int, seed: int = 0) -> Tensor:
    """`count` rows, (count,) int64, the same share of every class to within an image."""
    order = _shuffled(len(labels), seed)
    depth = torch.empty(len(labels), dtype=torch.float64)
    depth[order] = depth_in_class(labels[order])
    return depth.argsort(stable=True)[:count].sort().values


def in_shares(labels: Tensor, count: int) -> Tensor:
    """`count` labels in the shares of `labels` (N,), and so is every front part of them."""
    counts = labels.bincount()
    places, names = [], []
    for label in counts.nonzero().flatten().tolist():
        share = int(counts[label]) / len(labels)
        depth = torch.arange(int(count * share) + 2, dtype=torch.float64) + 0.5
        places.append(depth / share)
        names.append(torch.full((len(depth),), label))
    order = torch.cat(places).argsort(stable=True)
    return torch.cat(names)[order][:count]


def _shuffled(total: int, seed: int) -> Tensor:
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))
