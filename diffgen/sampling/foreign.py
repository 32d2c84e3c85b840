"""Images of any program, and what they may be measured against."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffgen.config.build import build, find, names, typed
from diffgen.config.parts import Named
from diffgen.dataset.arrays import arrays_in, images_of
from diffgen.dataset.images import Grey, Images, numbered_as
from diffgen.errors import UsageError
from diffgen.evaluation.features import Extractor
from diffgen.evaluation.features_classifier import FeaturesClassifier
from diffgen.evaluation.frechet import FeatureStats
from diffgen.evaluation.reference import Reference, reference
from diffgen.evaluation.stored import InMemory
from diffgen.files import expanded, sha256
from diffgen.sampling.evaluator import CLASSIFIER, classifier_of, features_name, pretrained
from diffgen.sampling.inputs import read_from


@dataclass(frozen=True)
class Against:
    """What images are measured against: images to train and, perhaps, to test; or statistics.

    `dataset` is the name of a data set of diffgen, "folder" for any other images.
    """

    dataset: str
    train: Images | None
    test: Images | None
    statistics: Reference | None = None


def images_at(path: str, size: int | None = None) -> Images:
    """The images of a folder, a zip or an .npz; `size` as in dataset=folder."""
    if path.endswith(".npz"):
        return images_of(path, arrays_in(path))
    settings = {"name": "folder", "root": path, "size": size, "test_fraction": 0.0}
    return build("dataset", settings).split("train")


def dataset_named(name: str) -> str:
    """The data set of diffgen that `--against` names, "folder" for a path.

    UsageError where nothing is there.
    """
    found = {each for each in names("dataset") if hasattr(find("dataset", each), "split")}
    known = sorted(found - {"folder"})
    if name in known:
        return name
    if not expanded(name).exists():
        raise UsageError(
            f"--against {name} is no folder, zip or .npz, and no data set of {', '.join(known)}"
        )
    return "folder"


def against(name: str, root: str | None, size: int | None) -> Against:
    """What `--against` names: a data set of diffgen, a folder, a zip, or an .npz.

    An .npz holds images (`arr_0`) or statistics of another program (`mu`, `sigma`).
    """
    if dataset_named(name) != "folder":
        source = build("dataset", read_from(root, {"name": name}))
        return Against(name, source.split("train"), source.split("test"))
    if name.endswith(".npz"):
        arrays = arrays_in(name)
        if "arr_0" not in arrays and {"mu", "sigma"} <= arrays.keys():
            return Against("folder", None, None, statistics(name, arrays["mu"], arrays["sigma"]))
        return Against("folder", images_of(name, arrays), None)
    return Against("folder", images_at(name, size), None)


def statistics(path: str, mu: Any, sigma: Any) -> Reference:
    """The reference that a mean (d,) and a covariance (d, d) of another program are."""
    try:
        mean, covariance = (torch.from_numpy(part.astype(np.float64)) for part in (mu, sigma))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: mu or sigma is no array of numbers") from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise UsageError(f"{path}: mu is {tuple(mean.shape)}, sigma {tuple(covariance.shape)}")
    if not bool(mean.isfinite().all() and covariance.isfinite().all()):
        raise UsageError(f"{path}: mu or sigma is not finite")
    identity = {"dataset": Path(path).name, "statistics": sha256([mean, covariance])}
    stats = FeatureStats.of_gaussian(mean, covariance)
    return Reference(InMemory(mean.new_zeros(0, len(mean))), None, stats, identity)


def extractor_for(features: Named, target: Against, cache: Path, device: str) -> Extractor:
    """The extractor asked for; that of `target`'s data set for `auto`."""
    name = features_name(features, target.dataset)
    if name != CLASSIFIER:
        return pretrained(name, tuple(sorted(features.settings.items())), device)
    typed(FeaturesClassifier, "features", features.settings)
    if target.train is None or target.test is None:
        raise UsageError(
            "features=classifier needs a data set of diffgen to be fitted to, such as "
            "--against mnist",
            "take features=inception or features=random",
        )
    options = tuple(sorted(features.settings.items()))
    return classifier_of(options, target.train, target.test, cache, device)


def reference_of(target: Against, extractor: Extractor, cache: Path) -> Reference:
    """The reference of the images, or the statistics where they fit the extractor."""
    if target.statistics:
        dim = target.statistics.rows.shape[1]
        if dim != extractor.dim:
            raise UsageError(
                f"{target.statistics.title} is of {dim} features, and features={extractor.name} "
                f"has {extractor.dim}"
            )
        return target.statistics
    assert target.train is not None
    split = "train" if target.test is not None else "all"
    return reference(target.train, split, extractor, cache)


def fitting(images: Images, real: Images | None) -> Images:
    """The images with labels that count as in `real`; UsageError where there are others.

    Grey ones get the channels of `real`: programs write them with three equal ones, too.
    """
    if real is not None:
        images = _with_channels(images, real.pixels.shape[1])
    if images.labels is None or real is None or not real.classes:
        return images
    if _numbers(images.classes) and not _numbers(real.classes):  # as in a dataset.json of EDM
        numbers = torch.tensor([int(name) for name in images.classes])
        images = replace(images, labels=numbers[images.labels], classes=())
    assert images.labels is not None
    if images.classes:
        return numbered_as(images, real.classes)
    if int(images.labels.max()) >= len(real.classes) or int(images.labels.min()) < 0:
        raise UsageError(
            f"{images.name} has labels up to {int(images.labels.max())}, and {real.name} "
            f"{len(real.classes)} classes"
        )
    return images


def _with_channels(images: Images, channels: int) -> Images:
    if (images.pixels.shape[1], channels) == (1, 3):
        return replace(images, pixels=Grey(images.pixels, 3))
    if (images.pixels.shape[1], channels) == (3, 1):
        parts = (images.at(rows) for rows in torch.arange(len(images)).split(1000))
        if all(bool((part == part[:, :1]).all()) for part in parts):
            return replace(images, pixels=Grey(images.pixels, 1))
    return images


def _numbers(classes: Sequence[str]) -> bool:
    return bool(classes) and all(name.isdecimal() for name in classes)
