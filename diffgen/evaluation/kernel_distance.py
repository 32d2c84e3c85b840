"""The kernel distance, and its standard error from sums of the kernel over blocks of images.

Bińkowski et al., Demystifying MMD GANs (2018): the kernel is (x y / d + 1)^3, the estimate of the
squared distance the unbiased one. The error is the jackknife's: Efron, The Jackknife, the
Bootstrap and Other Resampling Plans (1982), equation 3.1.
"""

import warnings
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor
from torchmetrics.image.kid import KernelInceptionDistance

from diffgen.dataset.random_choices import subset
from diffgen.evaluation.frechet import BLOCKS, AsGiven, blocks_of

SUBSET = 1000  # images
MOST = 5000  # images on either side that the error is measured on
LEAST = 2 * BLOCKS


def over_subsets(mine: Tensor, theirs: Tensor) -> tuple[float, float | None]:
    """Mean and spread over 100 seeded subsets of 1000 features (N, d), or of all; unbiased.

    No spread where a subset is all of `mine`: subsets then differ in nothing.
    """
    size = min(SUBSET, len(mine), len(theirs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about memory, at every construction
        metric = KernelInceptionDistance(
            AsGiven(theirs.shape[1]), subset_size=size, sync_on_compute=False
        )
    metric.update(theirs, real=True)
    metric.update(mine, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        mean, spread = metric.compute()
    return mean.item(), None if size == len(mine) else spread.item()


def error_of(mine: Tensor, theirs: Tensor) -> float | None:
    """The standard error of the distance of features (N, d) and (M, d); None of too few."""
    if len(mine) < LEAST:
        return None
    parts = [x[subset(len(x), min(len(x), MOST))] for x in (mine, theirs)]
    shares = [len(part) / len(x) for part, x in zip(parts, (mine, theirs), strict=True)]
    each = zip(errors_of(*parts), shares, strict=True)
    return sum(error**2 * share for error, share in each) ** 0.5


def errors_of(mine: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Of the distance of features (N, d) and (M, d): by the choice of each, the other the same."""
    across, n, m = _sums(mine, theirs), len(mine), len(theirs)
    return _error(_sums(mine, mine), across, n, m), _error(_sums(theirs, theirs), across.T, m, n)


def _error(within: Tensor, across: Tensor, count: int, others: int) -> float:
    """By the choice of `count` images, from sums of the kernel among them and with the others."""
    values = []
    for without in range(BLOCKS):
        kept = torch.arange(BLOCKS) != without
        n = count - int((blocks_of(count) == without).sum())
        mine, both = float(within[kept][:, kept].sum()), float(across[kept].sum())
        values.append(mine / (n * (n - 1)) - 2 * both / (n * others))
    return deviation(values)


def deviation(without: Sequence[float]) -> float:
    """The standard deviation of a figure with these values without one block of images each."""
    count, mean = len(without), fmean(without)
    return ((count - 1) / count * sum((value - mean) ** 2 for value in without)) ** 0.5


def _sums(mine: Tensor, theirs: Tensor) -> Tensor:
    """Sums (10, 10) of the kernel over pairs of blocks, without pairs of an image with itself."""
    rows, columns = blocks_of(len(mine)), blocks_of(len(theirs))
    sums = torch.zeros(BLOCKS, BLOCKS, dtype=torch.float64)
    for number in range(BLOCKS):
        kernel = (mine[rows == number] @ theirs.T / mine.shape[1] + 1) ** 3
        if mine is theirs:
            kernel[torch.arange(len(kernel)), (rows == number).nonzero().flatten()] = 0
        sums[number].index_add_(0, columns, kernel.sum(0))
    return sums
