"""Scores of a row, and the row `real (test)`: held-out images scored like samples."""

from collections.abc import Sequence

from torch import Tensor

from diffgen.dataset.images import Images
from diffgen.dataset.random_choices import stratified_subset, subset
from diffgen.errors import UsageError
from diffgen.evaluation.features import Extractor
from diffgen.evaluation.metrics import Scored, evaluate
from diffgen.evaluation.reference import Reference
from diffgen.evaluation.rows import FLOOR, Row


def floor(
    test: Images,
    n: int,
    extractor: Extractor,
    reference: Reference,
    names: Sequence[str],
    seed: int = 0,
) -> Row:
    """The row of n held-out images, drawn without repetition, the same share of each class.

    test: the held-out images; names: the metrics asked for; seed: of the draw. UsageError where
    fewer than n images are held out.

    The shares of a simple random draw are off by chance, and that alone can double a distance at
    n = 2000.
    """
    total, labels = len(test), test.labels
    if n > total:
        raise UsageError(f"{test.name} holds out {total} images: no row {FLOOR!r} of {n}; lower n")
    rows = subset(total, n, seed) if labels is None else stratified_subset(labels, n, seed)
    row = score(
        test.at(rows), None if labels is None else labels[rows], extractor, reference, names
    )
    return {"sampler": FLOOR, "seed": seed, **row}


def score(
    images: Tensor,
    labels: Tensor | None,
    extractor: Extractor,
    reference: Reference,
    names: Sequence[str],
) -> Row:
    """The columns of metrics, and of how many images were scored, on what, against what."""
    scored = Scored(images, extractor(images), labels, extractor.knows_labels)
    return {
        "n": len(images),
        "features": extractor.name,
        "features_hash": extractor.hash,
        "reference": reference.title,
        "reference_hash": reference.hash,
        "classes": list(reference.classes) or None,
        **evaluate(names, scored, reference),
    }
