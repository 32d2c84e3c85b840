"""How far a Fréchet distance is off by chance, from the distances without one image or two.

With F the distance of n images, F_i that without image i and F_ij that without two of them,

    a_i = (n - 1) (F - F_i),      b_ij = (n - 1) (n - 2) (F - F_i - F_j + F_ij)

are what one image adds and what two add beyond that. The jackknife's variance var a / n is larger
than that of F by E b^2 / (2 n^2): by half, where the images have the law of the reference. So the
variance is var a / n - E b^2 / (2 n^2), and no less than half of the jackknife's. Efron and Stein,
The Jackknife Estimate of Variance (1981), section 4.

Both come from pairs of images of a class: a_x - a_y, and b_xz - b_yz - b_xw + b_yw for two pairs.
What a class has on average, which is no chance since each set has as many images of it, drops out
of them, however few these are. Sums over blocks of pairs are kept. Rows whose blocks hold the same
seeds are compared in pairs: what the same noise does to both drops out of their difference.

The distances are exact. With C the covariance, S = C_ref^(1/2), S C S = V diag(l) V^T and
u = V^T S (x - m), an image is a term of rank 1 in diag(l), two are one of rank 2. What either adds
to the sum of the roots is an integral of the logarithm of a determinant of 1 or 2 rows, since
sqrt(l) = int_0^inf log(1 + l / s) s^(-1/2) ds / (2 pi).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp, pi
from typing import Any

import torch
from torch import Tensor

from diffgen.dataset.random_choices import permutation
from diffgen.evaluation.frechet import FeatureStats

LEAST = 20  # images that have an interval
BLOCKS = 100  # of pairs of images
ROUNDS = 4  # of other pairs that a pair meets for the second order
Z95 = 1.959963985  # of the normal law, two-sided 95 %


@dataclass(frozen=True)
class Influence:
    """What blocks of images move a distance by, plain numbers that a row can hold.

    Up to 100 numbers of either order: the squares of `first` sum to var a / n, those of `second`
    to E b^2 / (2 n^2).
    """

    first: list[float]
    second: list[float]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Influence | None":
        """That which a row holds beside its distance, if it does."""
        found = row.get("fid_influence")
        if not isinstance(found, dict) or row.get("fid") is None:
            return None
        first, second = _numbers(found.get("first")), _numbers(found.get("second"))
        return cls(first, second) if first and len(first) == len(second) else None

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def __sub__(self, other: "Influence") -> "Influence":
        """What the same blocks move the difference of two distances by."""
        first = [a - b for a, b in zip(self.first, other.first, strict=True)]
        return Influence(first, [a - b for a, b in zip(self.second, other.second, strict=True)])

    @property
    def deviation(self) -> float:
        """The standard deviation by chance."""
        first, second = (sum(x**2 for x in found) for found in (self.first, self.second))
        return max(first - second, first / 2) ** 0.5

    @property
    def half_width(self) -> float:
        """Half the length of the interval of 95 % for the mean of a difference of distances."""
        return quantile(len(self.first)) * self.deviation

    def error(self, distance: float) -> float:
        """The longer arm of the interval of 95 % for the mean distance of sets of as many images.

        The variance is about in proportion to the distance; that at the mean is taken, not that at
        this distance, as in the interval of Wilson, Probable Inference (1927).
        """
        width = self.half_width
        return width * (1 + min(width / (2 * distance), 1.0)) if distance > 0 else width


def influence(
    some: Tensor, labels: Tensor | None, stats: FeatureStats, reference: FeatureStats
) -> Influence:
    """That of the distance of images with these statistics, from some or all of them.

    some: their features (S, d) float64, S at least 20; labels: theirs, (S,) or None. Where there
    are more than S / 2 classes, all images count as one.
    """
    without, (one, other) = _Without.of(some, stats, reference), _pairs(labels, len(some))
    added, count = without.one(), stats.count
    first = (added[one] - added[other]) / (2 * len(one) * count) ** 0.5
    order = torch.from_numpy(permutation(len(one), 0))
    x, y, second = one[order], other[order], []
    for by in range(1, ROUNDS + 1):  # each pair beside `by` others
        found = without.two(x, y, x.roll(by), y.roll(by))
        second.append(found / (8 * ROUNDS * len(one)) ** 0.5 / count)
    blocks = min(BLOCKS, len(one))
    return Influence(_sums(first, blocks), _sums(torch.cat(second), blocks))


def told_apart(distance: float, influence: Influence) -> bool:
    """Whether a difference of distances is more than chance, by what blocks move it by."""
    return abs(distance) > influence.half_width


def best_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The row of the least distance and those that it is not told apart from.

    None where there are fewer than two rows, or rows without the figures to tell.
    """
    known = [(row, found) for row in rows if (found := Influence.of(row))]
    lengths = {len(found.first) for _, found in known}
    if len(known) < 2 or len(known) < len(rows) or len(lengths) > 1:
        return []
    best, of_best = min(known, key=lambda pair: pair[0]["fid"])
    return [
        row
        for row, found in known
        if row is best or not told_apart(row["fid"] - best["fid"], found - of_best)
    ]


def quantile(freedom: int) -> float:
    """Student's t, two-sided 95 %, to 3e-3 from 10 degrees of freedom on (Cornish and Fisher)."""
    z = Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


@dataclass(frozen=True, eq=False)
class _Without:
    """The distance of n images without one or two of them.

    centred: features less their mean (S, d); along: u of each (S, k); inverse: 1 / (l + s) at the
    points s of the integral (k, P); own: the sum of u^2 / (l + s), (S, P); weights: theirs (P,).
    """

    centred: Tensor
    apart: Tensor
    along: Tensor
    inverse: Tensor
    own: Tensor
    weights: Tensor
    n: int

    @classmethod
    def of(cls, some: Tensor, stats: FeatureStats, reference: FeatureStats) -> "_Without":
        root, centred = reference.root, some - stats.mean
        values, vectors = torch.linalg.eigh(root @ stats.covariance @ root)
        large = values > 1e-13 * values[-1]  # in other directions there is rounding alone
        values, along = values[large], centred @ (root @ vectors[:, large])
        least, most = values.log().aminmax() if len(values) else (torch.zeros(()),) * 2
        points = torch.arange(float(least) - 10, float(most) + 14, dtype=torch.float64).exp()
        inverse, weights = 1 / (values[:, None] + points), points.sqrt() / (2 * pi)
        weights[[0, -1]] /= 1 - exp(-0.5)  # the rest to either side, a geometric series
        own = along.square() @ inverse
        apart = stats.mean - reference.mean
        return cls(centred, apart, along, inverse, own, weights, stats.count)

    def one(self) -> Tensor:
        """a of each image (S,), less what is the same for all."""
        n = self.n
        roots = (1 - n / (n - 1) ** 2 * self.own).clamp(min=1e-15).log() @ self.weights
        sizes = (n / (n - 2) - 1 / (n - 1)) * self.centred.square().sum(1)
        return 2 * (self.centred @ self.apart + (n - 1) ** 1.5 / (n - 2) ** 0.5 * roots) + sizes

    def two(self, x: Tensor, y: Tensor, z: Tensor, w: Tensor) -> Tensor:
        """b_xz - b_yz - b_xw + b_yw (P,), of the numbers (P,) of four images each."""
        n = self.n
        ratio = self._left(x, z) * self._left(y, w) / (self._left(y, z) * self._left(x, w))
        roots = (n - 2) * (n - 1) ** 1.5 / (n - 3) ** 0.5 * (ratio.log() @ self.weights)
        moved = ((self.centred[x] - self.centred[y]) * (self.centred[z] - self.centred[w])).sum(1)
        return -2 * (roots + (n - 1) / ((n - 2) * (n - 3)) * moved)

    def _left(self, x: Tensor, y: Tensor) -> Tensor:
        """The determinant (P, points) that two images leave."""
        n, one, other = self.n, self.own[x], self.own[y]
        both = (self.along[x] * self.along[y]) @ self.inverse
        trace = ((n - 1) * (one + other) + 2 * both) / (n - 2)
        area = n / (n - 2) * (one * other - both.square())
        return (1 - trace / (n - 1) + area / (n - 1) ** 2).clamp(min=1e-15)


def _pairs(labels: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """The numbers of the two images (P,) of each pair: of a class, and each image in one pair."""
    if labels is None or 2 * len(labels.unique()) > count:
        labels = torch.zeros(count, dtype=torch.int64)
    order = labels.argsort(stable=True)
    _, sizes = labels.unique(return_counts=True)
    place = torch.cat([torch.arange(size) for size in sizes.tolist()])
    second = (place % 2 == 1).nonzero()[:, 0]
    return order[second - 1], order[second]


def _sums(values: Tensor, blocks: int) -> list[float]:
    """Of values (P,) over blocks of them, one of each block in turn."""
    block = torch.arange(len(values)) % blocks
    return values.new_zeros(blocks).index_add_(0, block, values).tolist()


def _numbers(found: Any) -> list[float]:
    """A list of numbers as it is, none for anything else."""
    numbers = isinstance(found, list) and all(isinstance(value, float) for value in found)
    return found if numbers else []
