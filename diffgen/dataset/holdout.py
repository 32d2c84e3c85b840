"""The images that a source without a test set of its own keeps from training."""

import numpy as np
from torch import Tensor, from_numpy

from diffgen.dataset.draws import permutation

SEED = 0  # never the run's seed: runs with other seeds must be scored on the same images


def holdout(count: int, fraction: float, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The indices (train, test), each in rising order, with round(fraction * count) in test.

    With labels (count,) the split is stratified: the images of each class are spread evenly over
    one list, by their rank in the class, and the front of that list is the test set.
    """
    order = permutation(count, SEED)
    groups = np.zeros(count, int) if labels is None else labels.numpy()[order]
    rank = np.empty(count)
    for group in np.unique(groups):
        members = groups == group
        rank[members] = (np.arange(members.sum()) + 0.5) / members.sum()
    order = order[np.argsort(rank, kind="stable")]
    cut = round(fraction * count)
    return from_numpy(np.sort(order[cut:])), from_numpy(np.sort(order[:cut]))
