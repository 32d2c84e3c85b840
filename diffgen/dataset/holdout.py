"""The images that a source without a test set of its own holds out from training."""

import torch
from torch import Tensor

from diffgen.dataset.philox import permutation

SEED = 0  # never the run's seed: runs with other seeds must be scored on the same images


def holdout(count: int, fraction: float, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The indices (train, test), each in rising order, with round(fraction * count) in test.

    With labels (count,) the split is stratified by class.
    """
    order = torch.from_numpy(permutation(count, SEED))
    if labels is not None:
        order = order[depth_in_class(labels[order]).argsort(stable=True)]
    cut = round(fraction * count)
    return order[cut:].sort().values, order[:cut].sort().values


def depth_in_class(labels: Tensor) -> Tensor:
    """How far into its class each element lies, (N,) float64 in (0, 1), in the order given.

    Sorting by it spreads every class evenly: any front part is stratified to within an image.
    """
    depth = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = labels == label
        count = int(members.sum())
        depth[members] = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return depth
