"""How far apart the images of a training set lie, in [0, 1]; the model's range scales it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.dataset.images import Images

BLOCK = 1024
WORK = 4e11  # multiplications that a search may take: well under a minute
BYTES = 5e8  # how much of a streaming set is read
HOPS = 8


@dataclass(frozen=True)
class Distance:
    """The largest distance found between two of `images` images out of `total`.

    `exact` says that no two of those images are farther apart.
    """

    value: float
    images: int
    total: int
    exact: bool


def widest(images: Images) -> Distance:
    """Technique 1 of Song and Ermon 2020: the largest distance between two images.

    Pixels are not negative and not above 1, so a pair is no farther apart than the root of the
    sum of its squared distances from black, nor from white. Pairs are searched in falling order
    of the first bound, those that cannot beat the best are left out, and the search ends after
    WORK multiplications.
    """
    rows = read(images)
    black, white = _squared_norms(rows), _squared_norms(255 - rows)
    order = black.argsort(descending=True)
    rows, black, white = rows[order], black[order], white[order]
    best, work = _by_hops(rows), 0.0
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        candidates = (black[block].max() + black > best) & (white[block].max() + white > best)
        candidates[:start] = False
        work += len(rows[block]) * int(candidates.sum()) * rows.shape[1]
        if work > WORK:
            return Distance(math.sqrt(best), len(rows), len(images), exact=False)
        best = max(best, _farthest(rows[block], rows[candidates]))
    return Distance(math.sqrt(best), len(rows), len(images), exact=True)


def read(images: Images) -> Tensor:
    """Images as rows of bytes (n, C H W): all in memory, else as many at random as BYTES hold."""
    if isinstance(images.pixels, Tensor):
        return images.pixels.flatten(1)
    count = min(len(images), int(BYTES / math.prod(images.pixels.shape[1:])))
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    return torch.cat([images.at(part) for part in chosen.split(BLOCK)]).flatten(1)


def _squared_norms(rows: Tensor) -> Tensor:
    """Squared distance of each image (n, D) from all zeros, (n,) float64."""
    parts = (_scaled(block).square().sum(1) for block in rows.split(BLOCK))
    return torch.cat(list(parts)).double()


def _by_hops(rows: Tensor) -> float:
    """A large squared distance, by going from the brightest image to the farthest and so on."""
    best, at = 0.0, 0
    for _ in range(HOPS):
        distances = torch.cat(
            [_squared_distances(rows[at : at + 1], block)[0] for block in rows.split(BLOCK)]
        )
        if not (found := float(distances.max())) > best:
            break
        best, at = found, int(distances.argmax())
    return best


def _farthest(rows: Tensor, others: Tensor) -> float:
    """The largest squared distance from one of `rows` to one of `others`, 0 without others."""
    found = 0.0
    for block in others.split(BLOCK) if len(others) else ():
        distances = _squared_distances(rows, block)
        a, b = divmod(int(distances.argmax()), len(block))
        found = max(found, float((rows[a].double() - block[b].double()).square().sum()) / 255**2)
    return found


def _squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    """Squared distances (n, m) float32 of bytes (n, D) and (m, D)."""
    a, b = _scaled(rows), _scaled(others)
    return a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T


def _scaled(rows: Tensor) -> Tensor:
    return rows.float() / 255
