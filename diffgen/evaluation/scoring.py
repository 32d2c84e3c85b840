"""Scores of a row, and the row `real (test)`: held-out images scored like samples."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from diffgen.dataset.images import Chosen, Images, Pixels
from diffgen.dataset.pixels import enlarge
from diffgen.dataset.random_choices import stratified_subset, subset
from diffgen.errors import UsageError
from diffgen.evaluation.features import Extractor, batches
from diffgen.evaluation.metrics import evaluate, metric_names, needs
from diffgen.evaluation.novelty import SPACES, Space
from diffgen.evaluation.reference import Reference
from diffgen.evaluation.rows import FLOOR, Row
from diffgen.evaluation.scored import Scored
from diffgen.files import write_atomically

IN_MEMORY = 2**30  # bytes of images that are held at once
PAIRS = 10  # in nearest.png
SIDE, GAP, LINE = 96, 6, 18  # of an image, around it, of text, in points


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
    scored = Scored.of(images, parts, labels, extractor.knows_labels, **needs(metric_names(names)))
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


def save_nearest(path: Path, scored: Scored, reference: Reference) -> None:
    """Write the ten closest pairs, by each distance that a metric took: nothing for none.

    An image stands above its nearest training image, the distance below them.
    """
    known = [space for space in SPACES if (space.end, reference.hash) in scored.near]
    if not known:
        return
    height = 2 * LINE + 2 * (SIDE + GAP)
    sheet = Image.new("RGB", (GAP + PAIRS * (SIDE + GAP), GAP + len(known) * height), "white")
    for k, space in enumerate(known):
        _draw(sheet, GAP + k * height, space, scored, reference)
    write_atomically(path, lambda file: sheet.save(file, "png"))


def _draw(
    sheet: Image.Image, top: int, space: Space, scored: Scored, reference: Reference
) -> None:
    apart, numbers = space.near(scored, reference)
    closest = apart.argsort(stable=True)[:PAIRS]
    pen, held = ImageDraw.Draw(sheet), space.held_out(reference)
    caption = f"in {space.name}: images, nearest training images, distance"
    caption += "" if held is None else f"; median of held-out images {float(held.median()):.3g}"
    pen.text((GAP, top), caption, "black")
    assert reference.pixels is not None
    for column, row in enumerate(closest):
        left = GAP + column * (SIDE + GAP)
        pair = scored.images[row[None]], reference.pixels[numbers[row][None]]
        for k, image in enumerate(pair):
            sheet.paste(_tile(image[0]), (left, top + LINE + k * (SIDE + GAP)))
        pen.text((left, top + LINE + 2 * (SIDE + GAP)), f"{float(apart[row]):.3g}", "black")


def _tile(image: Tensor) -> Image.Image:
    """An image uint8 (C, H, W) that fits into the side of a tile, with its own pixels if small."""
    shown = enlarge(image, SIDE) if max(image.shape[1:]) <= SIDE else image
    tile = Image.fromarray(
        shown.movedim(0, -1).expand(-1, -1, 3 if len(image) == 1 else -1).numpy()
    )
    tile.thumbnail((SIDE, SIDE))
    return tile
