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

from diffgen.evaluation.frechet import BLOCKS, AsGiven, blocks_of

SUBSET = 1000  # images


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


def error_of(mine: Tensor, theirs: Tensor) -> float:
    """Of the distance between equal numbers of features (N, d), both of which are drawn."""
    pairs = ((mine, mine), (theirs, theirs), (mine, theirs))
    sums = [_sums(*pair) for pair in pairs]
    return deviation([_distance(sums, len(mine), block) for block in range(BLOCKS)])


def deviation(without: Sequence[float]) -> float:
    """The standard deviation of a figure with these values without one block of images each."""
    count, mean = len(without), fmean(without)
    return ((count - 1) / count * sum((value - mean) ** 2 for value in without)) ** 0.5


def _sums(mine: Tensor, theirs: Tensor) -> Tensor:
    """Sums (10, 10) of the kernel over pairs of blocks, without pairs of an image with itself."""
    block, sums = blocks_of(len(mine)), torch.zeros(BLOCKS, BLOCKS, dtype=torch.float64)
    for number in range(BLOCKS):
        kernel = (mine[block == number] @ theirs.T / mine.shape[1] + 1) ** 3
        if mine is theirs:
            kernel[torch.arange(len(kernel)), (block == number).nonzero().flatten()] = 0
        sums[number].index_add_(0, block, kernel.sum(0))
    return sums


def _distance(sums: Sequence[Tensor], count: int, without: int) -> float:
    """The unbiased distance of the images that are not in one block."""
    kept = torch.arange(BLOCKS) != without
    n = count - int((blocks_of(count) == without).sum())
    mine, theirs, both = (float(part[kept][:, kept].sum()) for part in sums)
    return (mine + theirs) / (n * (n - 1)) - 2 * both / n**2
