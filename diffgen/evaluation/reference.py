"""The set that samples are measured against: its features and their statistics, in a cache."""

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffgen.dataset.images import Images
from diffgen.dataset.random_choices import subset
from diffgen.errors import UsageError
from diffgen.evaluation.features import Extractor, described, extract
from diffgen.evaluation.frechet import FeatureStats
from diffgen.files import expanded, sha256, sha256_of_json, write_atomically

log = logging.getLogger(__name__)


class Damaged(Exception):
    """The file is incomplete, or not what was written."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Features (N, d) float64 and labels (N,) or None of a reference set, and their statistics.

    `identity` says what they are the features of; `hash` is its short form and `title` its name
    for readers.
    """

    features: Tensor
    labels: Tensor | None
    stats: FeatureStats
    identity: dict[str, str]

    @property
    def hash(self) -> str:
        return short_hash(self.identity)

    @property
    def title(self) -> str:
        return "{dataset}/{split} ({count} images)".format(**self.identity)


def reference(
    images: Images, split: str, extractor: Extractor, cache: Path, count: int | None = None
) -> Reference:
    """The reference of `images`, all or `count` drawn at random, from the cache or put into it.

    A process reads it once. A file that is damaged is computed again, with a notice; one that
    holds another set's features raises UsageError.
    """
    identity = identity_of(images, split, extractor, count)
    name = f"{images.name}_{split}_{extractor.name}_{short_hash(identity)}.safetensors"
    path = expanded(cache) / "references" / name
    if path.is_file():
        try:
            return _matching(path, identity)
        except Damaged as error:
            log.warning("%s is damaged (%s) and is computed again", path, error)
    rows = subset(images.pixels.shape[0], int(identity["count"]))
    features = extract(extractor, images.pixels, rows).features
    labels = None if images.labels is None else images.labels[rows]
    _write(path, features, labels, identity)
    return _matching(path, identity)


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
    features = tensors["features"].double()
    stats = FeatureStats(tensors["total"], tensors["second"], len(features))
    return Reference(features, tensors.get("labels"), stats, identity)


def _write(path: Path, features: Tensor, labels: Tensor | None, identity: dict[str, str]) -> None:
    """Safetensors: features, their statistics and labels; identity and checksum in the header."""
    stats, single = FeatureStats.of(features), features.float()
    lossless = torch.equal(single.double(), features)  # as for networks that compute in float32
    tensors = {"features": single if lossless else features}
    tensors |= {"total": stats.total, "second": stats.second}
    if labels is not None:
        tensors["labels"] = labels
    data = save(tensors, {**identity, "checksum": sha256(described(tensors))})
    write_atomically(path, lambda file: file.write(data))
