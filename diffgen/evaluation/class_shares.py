"""Shares of classes: sets of images compare where they take their labels in the same shares.

A distance between sets sees how often a class occurs. A perfect model that draws all classes
equally often is far from a data set in which they are not, so the reference and the held-out
images then take the samples' shares.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

ALIKE = 0.03  # total variation below which shares count as the same
NAMED = 4  # classes whose shares a title names


def differ(labels: Tensor, others: Tensor) -> bool:
    """Whether two sets of labels, (N,) and (M,) int64, take classes in other shares.

    Counts that are off by an image, as few labels are, differ in nothing. Nor does, here, a set
    that is nearly balanced: MNIST is 0.02 of total variation from equal shares, which moves the
    distance of 2,000 images no more than chance does; of many more, take labels=data.
    """
    classes = 1 + int(torch.cat((labels, others)).max())
    mine, theirs = (part.bincount(minlength=classes).double() for part in (labels, others))
    apart = (mine - len(labels) * theirs / len(others)).abs()
    return float(apart.max()) > 1 and float(apart.sum()) / 2 > ALIKE * len(labels)


def rows_in_shares(labels: Tensor, like: Tensor) -> Tensor:
    """The most rows of `labels` whose classes have the shares of `like`, sorted, (n,) int64.

    Which rows of a class are taken is drawn at random, the same ones each time. None where a
    class of `like` is missing.
    """
    classes = 1 + int(torch.cat((labels, like)).max())
    have, wanted = (part.bincount(minlength=classes) for part in (labels, like))
    total = min(int(h) * len(like) // int(w) for h, w in zip(have, wanted, strict=True) if w)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    taken = [
        order[labels[order] == label][: total * int(count) // len(like)]
        for label, count in enumerate(wanted)
    ]
    return torch.cat(taken).sort().values


def shares_of(labels: Tensor, classes: Sequence[str]) -> str:
    """The shares of labels as a title names them: `cat: 50 %, dog: 50 %`."""
    counts = labels.bincount(minlength=len(classes))
    found = [k for k, count in enumerate(counts.tolist()) if count]
    if len(found) <= NAMED:
        return ", ".join(
            f"{classes[k]}: {100 * int(counts[k]) / len(labels):.3g} %" for k in found
        )
    even = int(counts[found].max() - counts[found].min()) <= 1
    shares = "equal shares" if even else "the shares of the samples"
    return f"{len(found)} classes in {shares}"
