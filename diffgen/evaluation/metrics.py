"""What is measured on a set of images, by name: the columns of a table that are not settings."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch_fidelity.metric_isc import (
    KEY_METRIC_ISC_MEAN,
    KEY_METRIC_ISC_STD,
    isc_features_to_metric,
)

from diffgen.dataset.random_choices import subset
from diffgen.errors import UsageError, did_you_mean
from diffgen.evaluation.frechet import (
    FeatureStats,
    block_stats,
    blocks_of,
    frechet,
    infinite,
)
from diffgen.evaluation.influence import LEAST as LEAST_OF_INFLUENCE
from diffgen.evaluation.influence import influence
from diffgen.evaluation.kernel_distance import error_of, over_subsets
from diffgen.evaluation.left_empty import LEAST, enough, needing_more
from diffgen.evaluation.neighbours import density_and_coverage, share_on_manifold
from diffgen.evaluation.novelty import NOVELTY
from diffgen.evaluation.reference import Reference
from diffgen.evaluation.rows import Row
from diffgen.evaluation.scored import Scored

PROJECTIONS = 1000  # of MIND
SPLITS = 10  # of the Inception Score


def evaluate(names: Sequence[str], scored: Scored, reference: Reference) -> Row:
    """The columns of the metrics `names`; None where a metric does not apply."""
    names = metric_names(names)
    empty = needing_more(names, len(scored), reference)
    columns: Row = {}
    for name in names:
        columns |= {name: None} if name in empty else METRICS[name](scored, reference)
    return columns


def needs(names: Sequence[str]) -> dict[str, bool]:
    """What of the images' features the metrics need beyond sums: themselves, or logits."""
    return {
        "keep": not SUMS_ALONE.issuperset(names),
        "logits": not LOGITS.isdisjoint(names),
    }


def metric_names(asked: Sequence[str] | str) -> list[str]:
    """The metrics asked for, each once, groups replaced; UsageError for a name that is none."""
    found: list[str] = []
    for name in [asked] if isinstance(asked, str) else asked:
        if name not in METRICS and name not in GROUPS:
            if "," in name:
                raise UsageError(f"no metric {name}: write several as metrics=[{name}]")
            raise UsageError(f"no metric {name}{did_you_mean(name, [*METRICS, *GROUPS])}")
        found += GROUPS.get(name, (name,))
    return list(dict.fromkeys(found))


def fid(scored: Scored, reference: Reference) -> Row:
    """Fréchet distance to the whole reference, and its interval where there are images enough.

    `fid_error` is the longer arm of the interval of 95 % for sets of as many images;
    `fid_influence` holds what blocks of images move the distance by, from which a table finds
    what differs (see `influence`).
    """
    apart = frechet(scored.stats, reference.stats)
    found: Row = {"fid": apart}
    if len(scored) < LEAST_OF_INFLUENCE:
        return found | {"fid_error": None, "fid_influence": None}
    labels = None if scored.labels is None else scored.labels.cpu()[scored.numbers]
    moved = influence(scored.some, labels, scored.stats, reference.stats)
    return found | {"fid_error": moved.error(apart), "fid_influence": moved.plain()}


def fid_test(scored: Scored, reference: Reference) -> Row:
    """Fréchet distance to the held-out images; of those themselves there is none."""
    held = reference.held_out
    if held is None or min(len(scored), held.count) < LEAST["fid"]:
        return {"fid_test": None}
    return {"fid_test": frechet(scored.stats, held.stats)}


def fid_infinity(scored: Scored, reference: Reference) -> Row:
    """Fréchet distance extrapolated to infinitely many images (see `frechet.infinite`).

    Its error is about that of the distance itself, as simulations show.
    """
    parts = block_stats(scored.features, blocks_of(len(scored), scored.labels))
    theirs = blocks_of(reference.count, reference.labels)
    return {"fid_infinity": infinite(parts, block_stats(reference.features, theirs))}


def fid_per_class(scored: Scored, reference: Reference) -> Row:
    """{class: Fréchet distance to the reference's images of it}, of two images or more each.

    Classes by name, in the data set's order.
    """
    if scored.labels is None or reference.labels is None:
        return {"fid_per_class": None}
    distances = {}
    for label in enough(scored.labels):
        theirs = reference.features[reference.labels == label]
        if len(theirs) > 1:
            mine = FeatureStats.of(scored.features[scored.labels == label])
            name = reference.class_name(label)
            distances[name] = frechet(mine, FeatureStats.of(theirs))
    return {"fid_per_class": distances or None}


def kid(scored: Scored, reference: Reference) -> Row:
    """Kernel distance over 100 subsets, its spread and its error (see `kernel_distance`)."""
    mean, spread = over_subsets(scored.features, reference.features)
    error = error_of(scored.features, reference.features)
    return {"kid": mean, "kid_std": spread, "kid_error": error}


def mind(scored: Scored, reference: Reference) -> Row:
    """Monge Inception Distance: squared 2-Wasserstein distance over 1000 seeded directions.

    3 d times its mean over directions, of equal numbers of images, as torch-fidelity 0.5 has it.
    """
    mine, theirs = _equal_numbers(scored, reference)
    generator = torch.Generator().manual_seed(0)
    dim, total = mine.shape[1], 0.0
    for count in torch.ones(PROJECTIONS).split(50):
        drawn = torch.randn(dim, len(count), generator=generator, dtype=torch.float64)
        direction = drawn / drawn.norm(dim=0)
        apart = (mine @ direction).sort(0).values - (theirs @ direction).sort(0).values
        total += float(apart.square().mean(0).sum())
    return {"mind": 3 * dim * total / PROJECTIONS}


def inception_score(scored: Scored, reference: Reference) -> Row:
    """exp of the mean KL of p(class | image) to p(class): mean and deviation over ten parts.

    Salimans et al., Improved Techniques for Training GANs (2016). None without logits.
    """
    logits = scored.logits
    if logits is None:
        return {"is": None, "is_std": None}
    found = isc_features_to_metric(logits, splits=min(SPLITS, len(logits)))
    return {"is": found[KEY_METRIC_ISC_MEAN], "is_std": found[KEY_METRIC_ISC_STD]}


def accuracy(scored: Scored, reference: Reference) -> Row:
    """The share of images that the extractor's classifier gives the label asked for."""
    logits, labels = scored.logits, scored.labels
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


def density(scored: Scored, reference: Reference) -> Row:
    """How densely real images surround each, against as many of them; about 1 for real ones."""
    return {"density": density_and_coverage(*_equal_numbers(scored, reference))[0]}


def coverage(scored: Scored, reference: Reference) -> Row:
    """The share of real images, of as many, that have one of these among their neighbours."""
    return {"coverage": density_and_coverage(*_equal_numbers(scored, reference))[1]}


def saturation(scored: Scored, reference: Reference) -> Row:
    """The share of pixel values at 0 or 255, the ends that clipping leaves."""
    count, total = 0, torch.Size(scored.images.shape).numel()
    for rows in torch.arange(len(scored)).split(1000):
        part = scored.images[rows]
        count += int(((part == 0) | (part == 255)).sum())
    return {"saturation": count / total}


def _equal_numbers(scored: Scored, reference: Reference) -> tuple[Tensor, Tensor]:
    mine, theirs = scored.features, reference.features
    count = min(len(mine), len(theirs))
    return mine[subset(len(mine), count)], theirs[subset(len(theirs), count)]


METRICS: dict[str, Callable[[Scored, Reference], Row]] = {
    **{"fid": fid, "fid_test": fid_test, "fid_infinity": fid_infinity, "kid": kid, "mind": mind},
    **{"is": inception_score, "accuracy": accuracy, "precision": precision, "recall": recall},
    **{"density": density, "coverage": coverage, "fid_per_class": fid_per_class},
    **NOVELTY,
    "saturation": saturation,
}
LOGITS = {"is", "accuracy"}  # metrics that need them
SUMS_ALONE = {  # that need no features of all images
    *("fid", "fid_test", "saturation", "authpct_pixels", "c_t_pixels"),
    *LOGITS,
}
GROUPS = {
    "standard": (
        *("fid", "fid_test", "kid", "is", "accuracy", "precision", "recall"),
        *("density", "coverage"),
    ),
    "all": tuple(METRICS),
}
