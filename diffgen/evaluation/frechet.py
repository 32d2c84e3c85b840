"""The Fréchet distance between Gaussians fitted to two sets of features, from sums over them.

Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
(2017), equation 6. It is biased upward by about 1 / n: compare distances of equal n only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from statistics import fmean

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from diffgen.errors import UsageError

BLOCKS = 10  # of images, from which extrapolation and errors are found


@dataclass(frozen=True, eq=False)
class FeatureStats:
    """Statistics of features (N, d): their sum (d,), the sum of outer products (d, d), and N."""

    total: Tensor
    second: Tensor
    count: int

    @classmethod
    def of(cls, features: Tensor) -> "FeatureStats":
        return cls.over([features])

    @classmethod
    def over(cls, parts: Iterable[Tensor]) -> "FeatureStats":
        """Those of features that come in parts (n, d) float64, none of which is kept."""
        total, second, count = torch.zeros(0), torch.zeros(0), 0
        for features in parts:
            if not count:
                dim = features.shape[1]
                total, second = features.new_zeros(dim), features.new_zeros(dim, dim)
            total += features.sum(0)
            second.addmm_(features.T, features)
            count += len(features)
        return cls(total, second, count)

    @classmethod
    def of_gaussian(cls, mean: Tensor, covariance: Tensor) -> "FeatureStats":
        """Those of two features of this mean and covariance: what is known of a Gaussian alone."""
        return cls(2 * mean, covariance + 2 * mean[:, None] * mean, 2)

    def __add__(self, other: "FeatureStats") -> "FeatureStats":
        """Those of both sets together."""
        total, second = self.total + other.total, self.second + other.second
        return FeatureStats(total, second, self.count + other.count)

    def __sub__(self, part: "FeatureStats") -> "FeatureStats":
        """Those of the set without a part of it."""
        total, second = self.total - part.total, self.second - part.second
        return FeatureStats(total, second, self.count - part.count)

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """With N - 1 in the denominator."""
        mean = self.mean
        return (self.second - self.count * mean[:, None] * mean) / (self.count - 1)

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return vectors * values.clamp(min=0).sqrt() @ vectors.T


class AsGiven(nn.Module):
    """The extractor of a metric that is handed features instead of images."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet(mine: FeatureStats, reference: FeatureStats) -> float:
    """The distance of images to the reference, at least 0; both of 2 images or more."""
    if min(mine.count, reference.count) < 2:
        raise UsageError("a Fréchet distance needs at least 2 images on either side")
    if not bool(mine.total.isfinite().all() and mine.second.isfinite().all()):
        raise FloatingPointError("features of the images are not finite: no Fréchet distance")
    metric = FrechetInceptionDistance(AsGiven(len(mine.total)), sync_on_compute=False)
    metric.update(mine.mean[None], real=False)  # its sums are then replaced by those at hand
    metric.real_features_sum, metric.fake_features_sum = reference.total, mine.total
    metric.real_features_cov_sum, metric.fake_features_cov_sum = reference.second, mine.second
    metric.real_features_num_samples = torch.tensor(reference.count)
    metric.fake_features_num_samples = torch.tensor(mine.count)
    return max(0.0, metric.compute().item())


def distance(stats: FeatureStats, reference: FeatureStats) -> float:
    """The same distance of sets of which the statistics alone are known, at least 0.

    By the eigenvalues of a symmetric product, whose root of the reference is found once.
    """
    root = reference.root
    product = torch.linalg.eigvalsh(root @ stats.covariance @ root).clamp(min=0).sqrt().sum()
    traces = stats.covariance.trace() + reference.covariance.trace()
    apart = (stats.mean - reference.mean).square().sum() + traces - 2 * product
    return max(0.0, apart.item())


def blocks_of(count: int, labels: Tensor | None = None) -> Tensor:
    """The block, from 0, of each image (count,): alike in number and, with labels, in classes.

    It depends on numbers and labels alone, so that rows of the same seeds share their blocks.
    """
    order = torch.arange(count) if labels is None else labels.cpu().argsort(stable=True)
    block = torch.empty(count, dtype=torch.int64)
    block[order] = torch.arange(count) % BLOCKS
    return block


def block_stats(features: Tensor, block: Tensor) -> list[FeatureStats]:
    return [FeatureStats.of(features[block == number]) for number in range(BLOCKS)]


def infinite(parts: Sequence[FeatureStats], reference: Sequence[FeatureStats]) -> float:
    """The distance extrapolated to infinitely many images on either side; it may fall below 0.

    Chong and Forsyth, Effectively Unbiased FID and Inception Score and Where to Find Them (2020):
    the value at 0 of a line in 1 / n through the distances of the whole, of its halves and of its
    fifths, the reference parted alike; of parts their mean.
    """
    x, y = [], []
    for size in (10, 5, 2):
        found = [
            distance(reduce(add, parts[k : k + size]), reduce(add, reference[k : k + size]))
            for k in range(0, BLOCKS, size)
        ]
        x.append(BLOCKS / size)
        y.append(fmean(found))
    _, at_zero = torch.linalg.lstsq(
        torch.tensor([[value, 1.0] for value in x], dtype=torch.float64),
        torch.tensor(y, dtype=torch.float64)[:, None],
    ).solution[:, 0]
    return float(at_zero)
