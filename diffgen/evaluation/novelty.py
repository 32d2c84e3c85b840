"""Whether images are copies of training images, by the distances to the nearest of them.

In features, or in pixels: there the root mean square of the differences of values from 0 to 1, as
in Carlini et al., Extracting Training Data from Diffusion Models (2023).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from diffgen.evaluation.neighbours import nearest, nearest_images
from diffgen.evaluation.reference import Reference
from diffgen.evaluation.rows import Row
from diffgen.evaluation.scored import Scored


@dataclass(frozen=True, eq=False)
class Space:
    """What distances are measured on: points of images, and the rule for the nearest."""

    name: str
    end: str  # of a column's name
    of_images: Callable[[Scored], Any]
    of_reference: Callable[[Reference], Any]  # None where it is unknown
    points: Callable[[Any], Any]
    nearest: Callable[..., tuple[Tensor, Tensor]]

    def near(self, scored: Scored, reference: Reference) -> tuple[Tensor, Tensor]:
        """The distance (N,) of each image to the nearest training image, and its number (N,)."""
        key = self.end, reference.hash
        if key not in scored.near:
            training = self.points(self.of_reference(reference))
            scored.near[key] = self.nearest(self.of_images(scored), training)
        return scored.near[key]

    def held_out(self, reference: Reference) -> Tensor | None:
        """The distance of each held-out image to the nearest training image, if there are any."""
        held = reference.held_out
        if held is None:
            return None
        return _between(self, self.of_reference(held), self.of_reference(reference))


@lru_cache(maxsize=4)
def _between(space: Space, held: Any, training: Any) -> Tensor:
    return space.nearest(space.points(held), space.points(training))[0]


FEATURES = Space(
    "features", "", lambda s: s.features, lambda r: r.rows, lambda rows: rows.whole, nearest
)
PIXELS = Space(
    "pixels", "_pixels", lambda s: s.images, lambda r: r.pixels, lambda x: x, nearest_images
)
SPACES = (FEATURES, PIXELS)


def authpct(space: Space, scored: Scored, reference: Reference) -> Row:
    """AuthPct: the percentage of images that are no copies.

    A copy is nearer to its nearest training image than that one is to any other. Alaa et al., How
    Faithful is your Synthetic Data? (2022), section 3.3.
    """
    column = f"authpct{space.end}"
    if space.of_reference(reference) is None:
        return {column: None}
    apart, found = space.near(scored, reference)
    training = space.points(space.of_reference(reference))
    met, place = found.unique(return_inverse=True)
    spread = space.nearest(training[met], training, but=met)[0]
    return {column: 100 * (apart > spread[place]).double().mean().item()}


def c_t(space: Space, scored: Scored, reference: Reference) -> Row:
    """C_T: whether images are nearer to training images than held-out ones; and how often.

    `nearer` is the share of pairs of an image and a held-out image in which the image is nearer,
    half where they are equally near: 0.5 for a perfect model, 1 for copies. C_T is its z-score
    with the sign turned: 0 give or take 1, and below -3 for a model that copies. Meehan et al., A
    Non-Parametric Test to Detect Data-Copying in Generative Models (2020), section 3, in one cell.
    """
    columns = f"c_t{space.end}", f"nearer{space.end}"
    if space.of_reference(reference) is None or (held := space.held_out(reference)) is None:
        return dict.fromkeys(columns)
    return dict(zip(columns, copying(space.near(scored, reference)[0], held), strict=True))


def copying(mine: Tensor, held_out: Tensor) -> tuple[float, float]:
    """C_T and the share `nearer`, of distances (N,) and (M,) to the nearest training images."""
    theirs, pairs = held_out.sort().values, len(mine) * len(held_out)
    farther = len(theirs) - torch.searchsorted(theirs, mine, right=True)
    equal = torch.searchsorted(theirs, mine, right=True) - torch.searchsorted(theirs, mine)
    share = float((farther + 0.5 * equal).sum()) / pairs
    deviation = ((len(mine) + len(theirs) + 1) / (12 * pairs)) ** 0.5
    return (0.5 - share) / deviation, share


NOVELTY: dict[str, Callable[[Scored, Reference], Row]] = {
    f"{name}{space.end}": partial(measure, space)
    for space in SPACES
    for name, measure in (("authpct", authpct), ("c_t", c_t))
}
