"""The row `real (test)`: held-out real images scored as samples are, the floor of a table."""

from collections.abc import Sequence

from diffgen.dataset.images import Images
from diffgen.errors import UsageError
from diffgen.evaluation.features import Extractor
from diffgen.evaluation.metrics import Scored, evaluate
from diffgen.evaluation.reference import Reference
from diffgen.evaluation.rows import FLOOR, Row
from diffgen.evaluation.subset import stratified_subset, subset


def floor(
    test: Images,
    n: int,
    extractor: Extractor,
    reference: Reference,
    metrics: Sequence[str],
    seed: int = 0,
) -> Row:
    """The row of n held-out images, drawn without repetition, the same share of each class.

    The shares of a simple random draw are off by chance, and that alone can double a distance at
    n = 2000.
    """
    total = test.pixels.shape[0]
    if n > total:
        raise UsageError(f"{test.name} holds out {total} images: no row {FLOOR!r} of {n}; lower n")
    labels = test.labels
    rows = subset(total, n, seed) if labels is None else stratified_subset(labels, n, seed)
    images = test.at(rows)
    labels = None if labels is None else labels[rows]
    scored = Scored(images, extractor(images), labels)
    return {
        "sampler": FLOOR,
        "seed": seed,
        **provenance(n, extractor, reference),
        **evaluate(metrics, scored, reference),
    }


def provenance(n: int, extractor: Extractor, reference: Reference) -> Row:
    """The columns that say how many images were scored, on what features, against what."""
    return {
        "n": n,
        "features": extractor.name,
        "features_hash": extractor.hash,
        "reference": reference.title,
        "reference_hash": reference.hash,
    }
