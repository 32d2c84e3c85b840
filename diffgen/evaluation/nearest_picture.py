"""The picture of the images that are nearest to training images."""

from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from diffgen.dataset.pixels import enlarge
from diffgen.evaluation.novelty import SPACES, Space
from diffgen.evaluation.reference import Reference
from diffgen.evaluation.scored import Scored
from diffgen.files import write_atomically

COLUMNS = 10
SIDE, GAP, LINE = 96, 6, 18  # of an image, around it, of text, in points


def save_nearest(path: Path, scored: Scored, reference: Reference) -> None:
    """Write the ten closest pairs, by each distance that a metric took: nothing for none.

    An image stands above its nearest training image, the distance below them.
    """
    known = [space for space in SPACES if (space.end, reference.hash) in scored.near]
    if not known:
        return
    height = 2 * LINE + 2 * (SIDE + GAP)
    sheet = Image.new("RGB", (GAP + COLUMNS * (SIDE + GAP), GAP + len(known) * height), "white")
    for k, space in enumerate(known):
        _draw(sheet, GAP + k * height, space, scored, reference)
    write_atomically(path, lambda file: sheet.save(file, "png"))


def _draw(
    sheet: Image.Image, top: int, space: Space, scored: Scored, reference: Reference
) -> None:
    apart, numbers = space.near(scored, reference)
    closest = apart.argsort(stable=True)[:COLUMNS]
    pen, held = ImageDraw.Draw(sheet), space.held_out(reference)
    told = f"in {space.name}: images, nearest training images, distance"
    told += "" if held is None else f"; median of held-out images {float(held.median()):.3g}"
    pen.text((GAP, top), told, "black")
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
