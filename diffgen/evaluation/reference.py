"""The set that samples are measured against: its features and their statistics, in a cache."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffgen.dataset.images import Images
from diffgen.dataset.random_choices import subset
from diffgen.errors import UsageError
from diffgen.evaluation.cache import Damaged, found_or_made, keep
from diffgen.evaluation.class_shares import described as shares_of
from diffgen.evaluation.class_shares import rows_in_shares
from diffgen.evaluation.features import Extractor, described, extract
from diffgen.evaluation.frechet import FeatureStats
from diffgen.files import expanded, sha256, sha256_of_json


@dataclass(frozen=True, eq=False)
class Reference:
    """Features (N, d) float64 and labels (N,) or None of a reference set, and their statistics.

    `identity` says what they are the features of; `hash` is its short form and `title` its name
    for readers. `classes` are the names of the labels, in the data set's order; `held_out` is that
    of images kept from training, where it was asked for.
    """

    features: Tensor
    labels: Tensor | None
    stats: FeatureStats
    identity: dict[str, str]
    classes: tuple[str, ...] = ()
    held_out: "Reference | None" = None

    @property
    def hash(self) -> str:
        return short_hash(self.identity)

    @property
    def title(self) -> str:
        if self.foreign:
            return f"{self.identity['dataset']} (statistics of another program)"
        shares = self.identity.get("shares")
        told = f"{self.identity['count']} images" + (f", {shares}" if shares else "")
        return "{dataset}/{split} ({told})".format(**self.identity, told=told)

    @property
    def foreign(self) -> bool:
        """Whether only the statistics are known, from another program."""
        return not len(self.features)

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
        features = self.features[rows]
        taken = self.labels[rows]
        identity = {**self.identity, "count": str(len(rows))}
        identity["shares"] = shares_of(taken, self.classes)
        return replace(
            self,
            features=features,
            labels=taken,
            stats=FeatureStats.of(features),
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

    def make() -> None:
        rows = subset(images.pixels.shape[0], int(identity["count"]))
        features = extract(extractor, images.pixels, rows).features
        labels = None if images.labels is None else images.labels[rows]
        _write(path, features, labels, identity)

    found = found_or_made(path, lambda: _matching(path, identity), make)
    return replace(found, classes=images.classes)


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
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            identity = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise Damaged(str(error)) from error
    if identity.pop("checksum", None) != sha256(described(tensors)):
        raise Damaged("its checksum differs")
    _check(tensors, identity)
    features = tensors["features"].double()
    stats = FeatureStats(tensors["total"], tensors["second"], len(features))
    return Reference(features, tensors.get("labels"), stats, identity)


def _check(tensors: Mapping[str, Tensor], identity: Mapping[str, str]) -> None:
    """Damaged unless the tensors are those of such a reference, whatever the checksum says."""
    count, dim = identity.get("count"), identity.get("dim")
    shapes = {name: "x".join(map(str, tensor.shape)) for name, tensor in tensors.items()}
    wanted = {"features": f"{count}x{dim}", "total": f"{dim}", "second": f"{dim}x{dim}"}
    if "labels" in shapes:
        wanted["labels"] = f"{count}"
    if shapes != wanted:
        raise Damaged(f"it holds {shapes}, not {wanted}")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise Damaged("its numbers are not finite")


def _write(path: Path, features: Tensor, labels: Tensor | None, identity: dict[str, str]) -> None:
    """Safetensors: features, their statistics and labels; identity and checksum in the header."""
    stats, single = FeatureStats.of(features), features.float()
    lossless = torch.equal(single.double(), features)  # as for networks that compute in float32
    tensors = {"features": single if lossless else features}
    tensors |= {"total": stats.total, "second": stats.second}
    if labels is not None:
        tensors["labels"] = labels
    data = save(tensors, {**identity, "checksum": sha256(described(tensors))})
    keep(path, data)
