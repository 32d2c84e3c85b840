"""Scores of a row, and the row `real (test)`: held-out images scored like samples."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffgen.dataset.images import Chosen, Images, Pixels
from diffgen.dataset.random_choices import stratified_subset, subset
from diffgen.errors import UsageError
from diffgen.evaluation.features import Extractor, batches
from diffgen.evaluation.metrics import evaluate, named, needs
from diffgen.evaluation.nearest_picture import save_nearest
from diffgen.evaluation.reference import Reference
from diffgen.evaluation.rows import FLOOR, Row
from diffgen.evaluation.scored import Scored

IN_MEMORY = 2**30  # bytes of images that are held at once


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
    taken = None if labels is None else labels[rows]
    row = score(Chosen(test.pixels, rows), taken, extractor, reference, names)
    return {"sampler": FLOOR, "seed": seed, **row}


def score(
    images: Pixels,
    labels: Tensor | None,
    extractor: Extractor,
    reference: Reference,
    names: Sequence[str],
    folder: Path | None = None,
) -> Row:
    """The columns of metrics, and of how many images were scored, on what, against what.

    Where the metrics take no more than sums over the features, no more is held in memory. Metrics
    of copies leave nearest.png in the folder.
    """
    if torch.Size(images.shape).numel() <= IN_MEMORY:  # decoded once for all metrics
        images = images[torch.arange(images.shape[0])]
    parts = batches(extractor, images)
    scored = Scored.of(images, parts, labels, extractor.knows_labels, **needs(named(names)))
    columns = evaluate(names, scored, reference)
    if folder and reference.pixels is not None:
        save_nearest(folder / "nearest.png", scored, reference)
    return {
        "n": len(scored),
        "features": extractor.name,
        "features_hash": extractor.hash,
        "reference": reference.title,
        "reference_hash": reference.hash,
        "classes": list(reference.classes) or None,
        **columns,
    }
