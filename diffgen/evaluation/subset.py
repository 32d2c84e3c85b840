"""Which images of a set are taken when not all are."""

import torch
from torch import Tensor

from diffgen.dataset.holdout import depth_in_class


def subset(total: int, count: int, seed: int = 0) -> Tensor:
    """`count` of the rows 0 to total - 1, without repetition, sorted, (count,) int64."""
    return _shuffled(total, seed)[:count].sort().values


def stratified_subset(labels: Tensor, count: int, seed: int = 0) -> Tensor:
    """`count` rows, (count,) int64, the same share of every class to within an image."""
    order = _shuffled(len(labels), seed)
    depth = torch.empty(len(labels), dtype=torch.float64)
    depth[order] = depth_in_class(labels[order])
    return depth.argsort(stable=True)[:count].sort().values


def _shuffled(total: int, seed: int) -> Tensor:
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))
