"""How far a Fréchet distance is off by chance, from its derivatives by single images.

A distance is a smooth function of the weights of the images. With c = x - m, the covariance C of
the images, S = C_ref^(1/2), S C S = V diag(l) V^T and u = V^T S c, an image moves the distance by

    a(x)    = 2 (m - m_ref) c + c^2 - sum_k u_k^2 / l_k^(1/2)                  less its mean
    b(x, y) = 2 sum_k u_k v_k / l_k^(1/2)
              + sum_jk w_jk (u_j u_k - l_jk) (v_j v_k - l_jk),   1 / w_jk = r_j r_k (r_j + r_k)

in the first and the second order (r = l^(1/2), v of y as u of x, l_jk = diag(l)). The variance of
the distance of n images is var a / n + E b^2 / (2 n^2) with m and C of the law. With those of the
images, which are off by chance as well, var a comes out larger by E b^2 / n: the variance is then
var a / n - E b^2 / (2 n^2), and no less than E b^2 / (2 n^2), which is all of it where the images
have the law of the reference, since a is 0 there. Hoeffding, A Class of Statistics with
Asymptotically Normal Distribution (1948); Efron and Stein, The Jackknife Estimate of Variance
(1981).

Both orders are taken of means over blocks of images, less the means of their classes where labels
are known: each set has as many images of a class, so that these are no chance. Rows whose blocks
hold the same seeds are compared in pairs: what the same noise does to both of them drops out of
their difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from diffgen.evaluation.frechet import FeatureStats, blocks_of

LEAST = 20  # images that have an interval
FIRST, SECOND = 100, 10  # blocks of either order
PAIRS = SECOND * (SECOND - 1) // 2
ROWS_AT_ONCE = 256  # of a matrix of features by features
Z95 = 1.959963985  # of the normal law, two-sided 95 %


@dataclass(frozen=True)
class Influence:
    """What blocks of images move a distance by, plain numbers that a row can hold.

    `first` of up to 100 blocks: its squares sum to var a / n. `second` of the 45 pairs of ten
    blocks: the mean square of what is no block's own is E b^2 / (2 n^2).
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
        return cls(first, second) if first and len(second) == PAIRS else None

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def __sub__(self, other: "Influence") -> "Influence":
        """What the same blocks move the difference of two distances by."""
        first = [a - b for a, b in zip(self.first, other.first, strict=True)]
        return Influence(first, [a - b for a, b in zip(self.second, other.second, strict=True)])

    @property
    def deviation(self) -> float:
        """The standard deviation by chance."""
        first, second = sum(value**2 for value in self.first), _interaction(self.second)
        return max(first - second, second) ** 0.5

    @property
    def half_width(self) -> float:
        """Half the length of the interval of 95 % for the mean over sets of as many images."""
        return quantile(len(self.first) - 1) * self.deviation


def influence(
    some: Tensor, labels: Tensor | None, stats: FeatureStats, reference: FeatureStats
) -> Influence:
    """That of the distance of images with these statistics, from some or all of them.

    some: their features (S, d) float64, S at least 20; labels: theirs, (S,) or None, so that
    blocks are alike in classes.
    """
    root = reference.root
    values, vectors = torch.linalg.eigh(root @ stats.covariance @ root)
    large = values > 1e-13 * values[-1]  # in other directions there is rounding alone
    values, way = values[large], root @ vectors[:, large]
    centred = some - stats.mean
    along, scales = centred @ way, values.sqrt()
    first = 2 * centred @ (stats.mean - reference.mean) + centred.square().sum(1)
    first -= (along.square() / scales).sum(1)
    classes = _Classes.of(labels, len(some))
    return Influence(
        _blocks_of_first(first, classes, stats.count),
        _pairs_of_second(along, values, classes, stats.count),
    )


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
    """Student's t, two-sided 95 %, to 5e-4 from 19 degrees of freedom on (Cornish and Fisher)."""
    z = Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


@dataclass(frozen=True, eq=False)
class _Classes:
    """The class of each image (S,), from 0, and how many it has; one where they have too few."""

    of_image: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, labels: Tensor | None, count: int) -> "_Classes":
        if labels is None or 2 * len(labels.unique()) > count:
            labels = torch.zeros(count, dtype=torch.int64)
        _, number, sizes = labels.unique(return_inverse=True, return_counts=True)
        return cls(number, sizes)

    def means(self, x: Tensor) -> Tensor:
        """The mean of each class, (K, ...), of x (S, ...)."""
        sums = x.new_zeros(len(self.sizes), *x.shape[1:]).index_add_(0, self.of_image, x)
        return sums / self.sizes.reshape(-1, *[1] * (x.ndim - 1))

    def blocks(self, number: int) -> tuple[Tensor, Tensor, float]:
        """The block of each image (S,), how many images of each class a block has (number, K), and
        the share of the variance of a block's sum that is left without the means of classes."""
        block = blocks_of(len(self.of_image), self.of_image, number)
        counts = torch.zeros(number, len(self.sizes), dtype=torch.float64)
        counts.index_put_((block, self.of_image), counts.new_ones(()), accumulate=True)
        lost = (counts.square().sum(0) / self.sizes).sum() / len(block)
        return block, counts, 1 - float(lost)


def _blocks_of_first(first: Tensor, classes: _Classes, count: int) -> list[float]:
    number = min(FIRST, len(first))
    block, _, left = classes.blocks(number)
    moved = first - classes.means(first)[classes.of_image]
    sums = first.new_zeros(number).index_add_(0, block, moved)
    return (sums / (left * len(first) * count) ** 0.5).tolist()


def _pairs_of_second(along: Tensor, values: Tensor, classes: _Classes, count: int) -> list[float]:
    (block, counts, left), scales, own = (
        classes.blocks(SECOND),
        values.sqrt(),
        classes.means(along),
    )
    parts, sizes = [along[block == number] for number in range(SECOND)], counts.sum(1)
    shares = counts / sizes[:, None]
    means = torch.stack([part.mean(0) for part in parts]) - shares @ own
    pairs = 2 * (means / scales) @ means.T
    for rows in torch.arange(len(values)).split(ROWS_AT_ONCE):  # all of it is ten times d^2
        moved = torch.stack([part[:, rows].T @ part / len(part) for part in parts])
        for each, share in zip(moved, shares, strict=True):
            each -= (own[:, rows].T * share) @ own
        moved -= torch.einsum("b,bij->ij", sizes / len(along), moved)
        weight = 1 / (scales[rows, None] * scales * (scales[rows, None] + scales))
        pairs += (moved * weight).flatten(1) @ moved.flatten(1).T
    upper = torch.triu_indices(SECOND, SECOND, 1)
    size = len(along) / SECOND * (1 - 1 / SECOND) / left
    return (pairs[upper[0], upper[1]] * size / count / 2**0.5).tolist()


def _numbers(found: Any) -> list[float]:
    """A list of numbers as it is, none for anything else."""
    numbers = isinstance(found, list) and all(isinstance(value, float) for value in found)
    return found if numbers else []


def _interaction(second: list[float]) -> float:
    """The mean square of what pairs of blocks do beyond what either block does in all pairs."""
    upper = torch.triu_indices(SECOND, SECOND, 1)
    pairs = torch.zeros(SECOND, SECOND, dtype=torch.float64)
    pairs[upper[0], upper[1]] = torch.tensor(second, dtype=torch.float64)
    pairs += pairs.T.clone()
    mean = pairs.sum() / (SECOND * (SECOND - 1))
    own = (pairs.sum(1) - (SECOND - 1) * mean) / (SECOND - 2)
    rest = (pairs - mean - own - own[:, None])[upper[0], upper[1]]
    return float(rest.square().sum()) / (SECOND * (SECOND - 3) / 2)
