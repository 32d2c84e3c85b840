"""The set that samples are measured against: its features and their statistics, in a cache."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from diffgen.dataset.images import Chosen, Images, Pixels
from diffgen.dataset.random_choices import subset
from diffgen.errors import UsageError
from diffgen.evaluation.cache import Damaged, found_or_made, keep
from diffgen.evaluation.class_shares import rows_in_shares, shares_of
from diffgen.evaluation.features import Extractor, batches
from diffgen.evaluation.frechet import FeatureStats
from diffgen.evaluation.stored import FeatureRows, Inexact, read_features, write_features
from diffgen.files import expanded, sha256_of_json


@dataclass(frozen=True, eq=False)
class Reference:
    """Features (N, d) float64 and labels (N,) or None of a reference set, and their statistics.

    `rows` are the features, which are read from the disk only where a metric takes them.
    `identity` says what they are the features of; `hash` is its short form and `title` its name
    for readers. `classes` are the names of the labels, in the data set's order; `held_out` is that
    of images kept from training, where it was asked for. `pixels` are the images themselves, for
    what is found in pixels.
    """

    rows: FeatureRows
    labels: Tensor | None
    stats: FeatureStats
    identity: dict[str, str]
    classes: tuple[str, ...] = ()
    held_out: "Reference | None" = None
    pixels: Pixels | None = None

    @property
    def features(self) -> Tensor:
        """All features, (N, d)."""
        return self.rows.whole

    @property
    def count(self) -> int:
        """How many images have features here; 0 where only the statistics are known."""
        return self.rows.shape[0]

    @property
    def hash(self) -> str:
        return short_hash(self.identity)

    @property
    def title(self) -> str:
        if self.foreign:
            return f"{self.identity['dataset']} (statistics of another program)"
        shares = self.identity.get("shares")
        held = f"{self.identity['count']} images" + (f", {shares}" if shares else "")
        return "{dataset}/{split} ({held})".format(**self.identity, held=held)

    @property
    def foreign(self) -> bool:
        """Whether only the statistics are known, from another program."""
        return not self.count

    def class_name(self, label: int) -> str:
        """What the data set calls a label."""
        return self.classes[label] if self.classes else str(label)

    def in_shares(self, labels: Tensor) -> "Reference":
        """The most of its images whose classes have the shares of `labels` (N,).

        UsageError where it holds no image of one of their classes.
        """
        if self.labels is None:
            return self
        rows = rows_in_shares(self.labels, labels)
        if len(rows) < 2:
            raise UsageError(
                f"{self.title} holds too few images of the classes that samples take "
                f"({shares_of(labels, self.classes)}) to measure them: take other labels="
            )
        features = self.rows.chosen(rows)
        taken = self.labels[rows]
        identity = {**self.identity, "count": str(len(rows))}
        identity["shares"] = shares_of(taken, self.classes)
        return replace(
            self,
            rows=features,
            labels=taken,
            stats=FeatureStats.over(features.parts()),
            pixels=None if self.pixels is None else Chosen(self.pixels, rows),
            identity=identity,
        )


def reference(
    images: Images, split: str, extractor: Extractor, cache: Path, count: int | None = None
) -> Reference:
    """The reference of `images`, all or `count` drawn at random, from the cache or put into it.

    A process reads it once. A file that is damaged is computed again, with a notice; one that
    holds another set's features raises UsageError.
    """
    identity = identity_of(images, split, extractor, count)
    name = f"{images.name[:40]}_{split}_{extractor.name}_{short_hash(identity)}.safetensors"
    path = expanded(cache) / "references" / name

    def drawn() -> Tensor:
        return subset(images.pixels.shape[0], int(identity["count"]))

    def make() -> None:
        rows = drawn()
        labels = None if images.labels is None else images.labels[rows]
        shape = len(rows), extractor.dim

        def write_as(dtype: torch.dtype) -> None:
            parts = (part.features for part in batches(extractor, images.pixels, rows))
            keep(path, lambda file: write_features(file, parts, shape, dtype, labels, identity))

        try:
            write_as(torch.float32)
        except Inexact:  # of a network that computes in float64
            write_as(torch.float64)

    found = found_or_made(path, lambda: _matching(path, identity), make)
    whole = found.count == images.pixels.shape[0]
    pixels = images.pixels if whole else Chosen(images.pixels, drawn())
    return replace(found, classes=images.classes, pixels=pixels)


def identity_of(
    images: Images, split: str, extractor: Extractor, count: int | None
) -> dict[str, str]:
    """What the features of a reference set depend on, as texts."""
    total, channels, height, width = images.pixels.shape
    if count is not None and not 2 <= count <= total:
        raise UsageError(f"{images.name}/{split} has {total} images: no reference of {count}")
    return {
        "dataset": images.name,
        "fingerprint": images.fingerprint,
        "split": split,
        "size": f"{height}x{width}",
        "channels": str(channels),
        "count": str(total if count is None else count),
        "extractor": extractor.name,
        "extractor_hash": extractor.hash,
        "dim": str(extractor.dim),
    }


def short_hash(identity: dict[str, str]) -> str:
    """12 hexadecimal digits of an identity."""
    return sha256_of_json(identity)[:12]


def _matching(path: Path, identity: dict[str, str]) -> Reference:
    found = _read(path, path.stat().st_mtime_ns)
    wrong = sorted(key for key in identity if found.identity.get(key) != identity[key])
    if wrong:
        differences = (f"{key} {found.identity.get(key)}, not {identity[key]}" for key in wrong)
        raise UsageError(f"{path} holds another reference ({', '.join(differences)}); delete it")
    return found


@lru_cache(maxsize=4)
def _read(path: Path, stamp: int) -> Reference:
    """The reference in a file, read again only when its modification time `stamp` changed.

    Damaged where the file cannot be read or its checksum differs.
    """
    rows, tensors, identity = read_features(path)
    _check({"features": rows, **tensors}, identity)
    stats = FeatureStats(tensors["total"], tensors["second"], rows.shape[0])
    return Reference(rows, tensors.get("labels"), stats, identity)


def _check(tensors: Mapping[str, Tensor | FeatureRows], identity: Mapping[str, str]) -> None:
    """Damaged unless the tensors are those of such a reference, whatever the checksum says."""
    count, dim = identity.get("count"), identity.get("dim")
    shapes = {name: "x".join(map(str, tensor.shape)) for name, tensor in tensors.items()}
    wanted = {"features": f"{count}x{dim}", "total": f"{dim}", "second": f"{dim}x{dim}"}
    if "labels" in shapes:
        wanted["labels"] = f"{count}"
    if shapes != wanted:
        raise Damaged(f"it holds {shapes}, not {wanted}")
