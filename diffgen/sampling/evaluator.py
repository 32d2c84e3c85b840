"""What scores samples: an extractor of features, the reference of a data set, and its floor."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from diffgen.config.build import build, typed
from diffgen.config.parts import Named
from diffgen.dataset.download import offline
from diffgen.dataset.images import Images, check_alike, numbered_as
from diffgen.errors import UsageError
from diffgen.evaluation.class_shares import differ, rows_in_shares
from diffgen.evaluation.clip import ClipExtractor
from diffgen.evaluation.dinov2 import Dinov2Extractor
from diffgen.evaluation.features import Extractor
from diffgen.evaluation.features_classifier import ClassifierExtractor, FeaturesClassifier, cached
from diffgen.evaluation.inception import InceptionExtractor
from diffgen.evaluation.left_empty import HELD_OUT, notes
from diffgen.evaluation.random_network import RandomExtractor
from diffgen.evaluation.reference import Reference, reference, short_hash
from diffgen.evaluation.scoring import floor, score
from diffgen.evaluation.torchvision_network import TorchvisionExtractor
from diffgen.runs.cell import Cell
from diffgen.runs.checkpoint import Checkpoint
from diffgen.sampling.inputs import read_from

CLASSIFIER = "classifier"
EXTRACTORS: dict[str, type[Extractor]] = {
    "inception": InceptionExtractor,
    "dinov2": Dinov2Extractor,
    "clip": ClipExtractor,
    "torchvision": TorchvisionExtractor,
    "random": RandomExtractor,
}
OWN_CLASSIFIER = ("digits", "mnist", "fashion_mnist")  # where features=auto takes a classifier


log = logging.getLogger(__name__)
say_once = lru_cache(None)(log.info)  # not for every job of a sweep


@dataclass(frozen=True)
class Evaluator:
    """Scores images of one data set with one extractor; made once per process."""

    extractor: Extractor
    reference: Reference
    test: Images
    cache: Path

    def for_labels(self, labels: Tensor | None) -> "Evaluator":
        """The same with reference and held-out images in the shares of these labels (N,).

        They stay as they are where labels are unknown or the shares do not differ. Where fewer
        than two images a class are held out in these shares, none are.
        """
        known = self.reference.labels
        if labels is None or known is None or not differ(labels, known):
            return self
        taken = self.reference.in_shares(labels)
        test = self.test
        if test.labels is not None:
            rows = rows_in_shares(test.labels, labels)
            if len(rows) < 2 * len(labels.unique()):
                say_once(f"{test.name} holds out too few images in these shares: no real row")
                rows = rows[:0]
            shares = short_hash({"of": test.fingerprint, **taken.identity})
            test = replace(
                test, pixels=test.at(rows), labels=test.labels[rows], fingerprint=shares
            )
        say_once(
            f"samples take other shares of classes than {self.reference.title} has, so the "
            f"reference is {taken.title} and real images take the same shares; labels=data draws "
            "samples in the data set's shares"
        )
        return replace(self, reference=taken, test=test)

    def sample_count(
        self,
        num_samples: int,
        asked: int | None,
        names: Sequence[str] = (),
        labels: Tensor | None = None,
    ) -> int:
        """How many images a row counts: the n asked for, else as many as can have a floor.

        Metrics of `names` that need more images, or more of one of their labels, are told of.
        """
        held = len(self.test)
        n = asked or min(num_samples, held or num_samples)
        counted, dim = None if labels is None else labels[:n], self.extractor.dim
        for line in notes(
            names=names, labels=counted, n=n, dim=dim, reference=self.reference, held=held
        ):
            say_once(line)
        if n > num_samples:
            raise UsageError(f"n={n} needs as many images: num_samples={num_samples} is less")
        if n > held > 0:  # of none, `for_labels` has told
            say_once(
                f"n={n}: no row 'real (test)', since {self.test.name} holds out {held} images"
            )
        elif not asked and n < num_samples:
            say_once(f"rows count {n} of {num_samples} images, as many as are held out; or set n=")
        return n

    def floor(self, run: Path, runs: Path, n: int, names: list[str]) -> Cell | None:
        """The cell of the row `real (test)`, computed where it is missing.

        None where fewer than n images are held out.
        """
        if n > len(self.test):
            return None
        cell = Cell.of(run, {"floor": n, **self.identity(), "metrics": names}, runs)
        if cell.row is None:
            cell.keep_row(floor(self.test, n, self.extractor, self.reference, names))
        return cell

    def row(
        self, images: Tensor, labels: Tensor | None, names: list[str], folder: Path | None = None
    ) -> dict[str, Any]:
        """The columns of provenance and metrics for these images (see `scoring.score`)."""
        compared = self.reference
        if not HELD_OUT.isdisjoint(names) and len(self.test) > 1:
            held = reference(self.test, "test", self.extractor, self.cache)
            compared = replace(compared, held_out=held)
        return score(images, labels, self.extractor, compared, names, folder)

    def identity(self) -> dict[str, str]:
        """What figures depend on besides the images."""
        return {
            "features": self.extractor.name,
            "features_hash": self.extractor.hash,
            "reference_hash": self.reference.hash,
        }


def evaluator_of(
    checkpoint: Checkpoint, features: Named, cache: str, root: str | None, device: str
) -> Evaluator:
    """The evaluator of a checkpoint's data set; `root` replaces the folder its images came from.

    Nothing is downloaded into a folder that only the checkpoint names. Features are taken on
    `device`.
    """
    dataset = read_from(root, checkpoint.recipe["dataset"], checkpoint.trust)
    frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in dataset.items()}
    name = features_name(features, dataset["name"])
    options = name, tuple(sorted(features.settings.items()))
    made_of = tuple(sorted(frozen.items())), checkpoint.trust
    draws = checkpoint.shape, checkpoint.classes
    return _evaluator(*made_of, root is None, options, cache, device, *draws)


def check_features(features: Named, checkpoint: Checkpoint) -> None:
    """UsageError, before anything is drawn, where the weights of features cannot be had."""
    name = features_name(features, checkpoint.recipe["dataset"]["name"])
    if name == CLASSIFIER:
        typed(FeaturesClassifier, "features", features.settings)
    else:
        pretrained(name, tuple(sorted(features.settings.items())), "cpu")


@lru_cache(maxsize=2)
def _evaluator(
    dataset: tuple[tuple[str, Any], ...],
    trust: tuple[str, ...],
    at_hand: bool,
    features: tuple[str, tuple[tuple[str, Any], ...]],
    cache: str,
    device: str,
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
) -> Evaluator:
    name, options = features
    if name != CLASSIFIER:
        pretrained(name, options, device)  # before images are read
    source = build("dataset", dict(dataset), trust)
    with offline() if at_hand else nullcontext():
        train = numbered_as(source.split("train"), classes)
        test = numbered_as(source.split("test"), classes)
    check_alike("this model", shape, train, "metrics=[] scores none")
    return evaluator_on(train, test, features, cache, device)


def evaluator_on(
    train: Images,
    test: Images,
    features: tuple[str, tuple[tuple[str, Any], ...]],
    cache: str,
    device: str,
) -> Evaluator:
    """The evaluator of two splits of a data set, by features (name, options)."""
    name, options = features
    if name == CLASSIFIER:
        extractor = classifier_of(options, train, test, Path(cache), device)
    else:
        extractor = pretrained(name, options, device)
    real = reference(train, "train", extractor, Path(cache))
    return Evaluator(extractor, real, test, Path(cache))


def features_name(features: Named, dataset: str) -> str:
    """The features asked for, `auto` replaced by those of `dataset`, as dataset= names it."""
    if features.name != "auto":
        return features.name
    return "classifier" if dataset in OWN_CLASSIFIER else "inception"


@lru_cache(maxsize=2)
def pretrained(name: str, options: tuple[tuple[str, Any], ...], device: str) -> Extractor:
    """An extractor that needs no images of the data set."""
    if name not in EXTRACTORS:
        known = ["auto", CLASSIFIER, *EXTRACTORS]
        raise UsageError(f"no features={name}; there is {', '.join(known)}")
    return typed(EXTRACTORS[name], "features", dict(options), device=device)


def classifier_of(
    options: tuple[tuple[str, Any], ...], train: Images, test: Images, cache: Path, device: str
) -> Extractor:
    """The extractor of a classifier that is fitted to the data set, or found in the cache."""
    settings = typed(FeaturesClassifier, "features", dict(options))
    return ClassifierExtractor(cached(settings, train, test, cache, device).network, device=device)
