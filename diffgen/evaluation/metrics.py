"""What is measured on a set of images, by name: the columns of a table that are not settings."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.image.kid import KernelInceptionDistance

from diffgen.dataset.random_choices import subset
from diffgen.errors import UsageError, did_you_mean
from diffgen.evaluation.features import Features
from diffgen.evaluation.frechet import AsGiven, FeatureStats, frechet
from diffgen.evaluation.reference import Reference
from diffgen.evaluation.rows import Row

KID_SUBSET = 1000
K = 3  # nearest neighbours of precision and recall
NUMBERS_AT_ONCE = 2**24  # distances held in memory


@dataclass(frozen=True, eq=False)
class Scored:
    """Images uint8 (N, C, H, W), their features, and the labels asked for, (N,) int64 or None."""

    images: Tensor
    features: Features
    labels: Tensor | None
    knows_labels: bool = True  # whether the logits are for the classes of the labels


def evaluate(names: Sequence[str], scored: Scored, reference: Reference) -> Row:
    """The columns of the metrics `names`; None where a metric does not apply."""
    check(names)
    few = too_few(names, min(len(scored.features), len(reference.features)))
    columns: Row = {}
    for name in names:
        columns |= {name: None} if name in few else METRICS[name](scored, reference)
    return columns


def too_few(names: Sequence[str], n: int) -> dict[str, int]:
    """Those of the metrics that need more than n images, and how many they need."""
    return {name: LEAST[name] for name in names if LEAST.get(name, 1) > n}


def check(names: Sequence[str]) -> None:
    """UsageError for a name that is no metric."""
    for name in names:
        if name not in METRICS:
            raise UsageError(f"no metric {name}{did_you_mean(name, METRICS)}")


def fid(scored: Scored, reference: Reference) -> Row:
    """Fréchet distance to the whole reference."""
    return {"fid": frechet(scored.features.features, reference.stats)}


def fid_per_class(scored: Scored, reference: Reference) -> Row:
    """{class: Fréchet distance to the reference's images of it}, of two images or more each.

    Classes by name, in the data set's order.
    """
    if scored.labels is None or reference.labels is None:
        return {"fid_per_class": None}
    distances = {}
    for label in scored.labels.unique().tolist():
        mine = scored.features.features[scored.labels == label]
        theirs = reference.features[reference.labels == label]
        if min(len(mine), len(theirs)) > 1:
            name = reference.classes[label] if reference.classes else str(label)
            distances[name] = frechet(mine, FeatureStats.of(theirs))
    return {"fid_per_class": distances}


def kid(scored: Scored, reference: Reference) -> Row:
    """Kernel distance, mean and spread over 100 seeded subsets of 1000 (or n) images; unbiased.

    Bińkowski et al., Demystifying MMD GANs (2018). No spread where a subset is all of the images:
    subsets then differ in nothing.
    """
    size = min(KID_SUBSET, len(scored.features), len(reference.features))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about memory, at every construction
        metric = KernelInceptionDistance(
            AsGiven(reference.features.shape[1]), subset_size=size, sync_on_compute=False
        )
    metric.update(reference.features, real=True)
    metric.update(scored.features.features, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        mean, spread = metric.compute()
    whole = size == len(scored.features)
    return {"kid": mean.item(), "kid_std": None if whole else spread.item()}


def accuracy(scored: Scored, reference: Reference) -> Row:
    """The share of images that the extractor's classifier gives the label asked for."""
    logits, labels = scored.features.logits, scored.labels
    if logits is None or labels is None or not scored.knows_labels:
        return {"accuracy": None}
    return {"accuracy": (logits.argmax(1) == labels.cpu()).double().mean().item()}


def precision(scored: Scored, reference: Reference) -> Row:
    """Quality: the share of images among the reference's, against as many of those."""
    mine, theirs = _equal_numbers(scored, reference)
    return {"precision": share_on_manifold(mine, theirs)}


def recall(scored: Scored, reference: Reference) -> Row:
    """Diversity: the share of the reference's images, of as many, that are among these."""
    mine, theirs = _equal_numbers(scored, reference)
    return {"recall": share_on_manifold(theirs, mine)}


def saturation(scored: Scored, reference: Reference) -> Row:
    """The share of pixel values at 0 or 255, the ends that clipping leaves."""
    ends = (scored.images == 0) | (scored.images == 255)
    return {"saturation": ends.double().mean().item()}


def _equal_numbers(scored: Scored, reference: Reference) -> tuple[Tensor, Tensor]:
    mine, theirs = scored.features.features, reference.features
    count = min(len(mine), len(theirs))
    return mine[subset(len(mine), count)], theirs[subset(len(theirs), count)]


def share_on_manifold(points: Tensor, others: Tensor, k: int = K) -> float:
    """The share of `points` (N, d) on the manifold of `others` (M, d).

    Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models
    (2019), section 2: the manifold is the union of the balls around the others that reach their
    k-th nearest neighbour among themselves. It gives precision and, of the reference's, recall.
    """
    radii = _radii(others, k)
    covered = [
        (torch.cdist(points[rows], others) <= radii).any(1)
        for rows in _blocks(len(points), len(others))
    ]
    return torch.cat(covered).double().mean().item()


def _radii(points: Tensor, k: int) -> Tensor:
    """Distances (N,) from each point to its k-th nearest other one."""
    if len(points) <= k:
        raise UsageError(f"precision and recall need more than {k} images, not {len(points)}")
    radii = []
    for rows in _blocks(len(points), len(points)):
        distances = torch.cdist(points[rows], points)
        distances[torch.arange(len(rows)), rows] = torch.inf
        radii.append(distances.topk(k, largest=False).values[:, -1])
    return torch.cat(radii)


def _blocks(rows: int, columns: int) -> tuple[Tensor, ...]:
    return torch.arange(rows).split(max(1, NUMBERS_AT_ONCE // columns))


LEAST = {"fid": 2, "fid_per_class": 2, "kid": 2, "precision": K + 1, "recall": K + 1}  # images
METRICS: dict[str, Callable[[Scored, Reference], Row]] = {
    function.__name__: function
    for function in (fid, fid_per_class, kid, accuracy, precision, recall, saturation)
}
