"""What metrics need to be figures at all: images, of each class and held out, and features."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from diffgen.dataset.images import listed
from diffgen.evaluation.frechet import BLOCKS
from diffgen.evaluation.neighbours import K_DENSITY, K
from diffgen.evaluation.reference import Reference

LEAST = {  # images that a metric needs
    **{"fid": 2, "fid_per_class": 2, "fid_test": 2, "kid": 2, "fid_infinity": 5 * BLOCKS},
    **{"authpct": 2, "authpct_pixels": 2},
    **{"precision": K + 1, "recall": K + 1, "density": K_DENSITY + 1, "coverage": K_DENSITY + 1},
}
WITHOUT_FEATURES = ("fid", "is", "accuracy", "saturation")  # of the reference
HELD_OUT = {"fid_test", "c_t", "c_t_pixels"}  # metrics that need held-out images as a reference


def needing_more(names: Sequence[str], n: int, reference: Reference) -> dict[str, str]:
    """Those of the metrics that n images or this reference are too little for; what they need."""
    known = n if reference.foreign else min(n, reference.count)
    few = {name: _least(name) for name in names if LEAST.get(name, 1) > known}
    if not reference.foreign:
        return few
    return few | {k: "images, not statistics" for k in names if k not in WITHOUT_FEATURES}


def _least(name: str, of: str = "") -> str:
    return f"{LEAST[name]} {of}images or more"


def notes(
    *,
    names: Sequence[str],
    labels: Tensor | None,
    n: int,
    dim: int,
    reference: Reference,
    held: int,
) -> Iterator[str]:
    """What to tell of n images with labels (n,), of `dim` features: lines.

    held: how many images are held out.
    """
    if "fid" in names and n <= dim:
        yield (
            f"n={n} images are no more than the {dim} features: the distance is mostly what it is "
            "too large by, and its interval of 95 % may be one of 90 %"
        )
    less = [name for name in names if name in HELD_OUT and held < LEAST["fid"]]
    needed = dict.fromkeys(less, _least("fid", "held-out ")) | needing_more(names, n, reference)
    if "fid_per_class" in names and "fid_per_class" not in needed:
        needed |= _classes_left_empty(labels, reference)
    if needed:
        yield f"left empty: {', '.join(f'{name} (needs {what})' for name, what in needed.items())}"


def _classes_left_empty(labels: Tensor | None, reference: Reference) -> dict[str, str]:
    """The classes without a distance of their own, as `needing_more` tells of metrics."""
    if labels is None or reference.labels is None:
        return {"fid_per_class": "labels of the images and of the reference"}
    known = set(enough(labels)) & set(enough(reference.labels))
    few = [reference.class_name(k) for k in labels.unique().tolist() if k not in known]
    what = "2 images or more of a class, on either side: take more of it"
    return {f"fid_per_class of {listed(few)}": what} if few else {}


def enough(labels: Tensor) -> list[int]:
    """The labels of two images or more."""
    found, counts = labels.unique(return_counts=True)
    return found[counts > 1].tolist()
