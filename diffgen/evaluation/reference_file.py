"""The file of a reference: safetensors, with what it holds and a checksum in its header."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffgen.evaluation.frechet import FeatureStats
from diffgen.files import sha256, write_atomically


class Damaged(Exception):
    """The file is incomplete, or not what was written."""


def write(
    path: Path, features: Tensor, labels: Tensor | None, identity: Mapping[str, str]
) -> None:
    """Features (N, d) float64 with labels (N,) or None, their statistics and their identity."""
    stats = FeatureStats.of(features)
    tensors = {"features": _compact(features), "total": stats.total, "second": stats.second}
    if labels is not None:
        tensors["labels"] = labels
    data = save(tensors, {**identity, "checksum": _checksum(tensors)})
    write_atomically(path, lambda file: file.write(data))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors `features`, `total`, `second` and perhaps `labels`, and the identity.

    Damaged where the file cannot be read or its checksum differs.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            identity = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise Damaged(str(error)) from error
    if identity.pop("checksum", None) != _checksum(tensors):
        raise Damaged("its checksum differs")
    return tensors | {"features": tensors["features"].double()}, identity


def _compact(features: Tensor) -> Tensor:
    """In half the space where nothing is lost, as for networks that compute in float32."""
    single = features.float()
    return single if torch.equal(single.double(), features) else features


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    parts: list[str | Tensor] = []
    for name, tensor in sorted(tensors.items()):
        parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}", tensor]
    return sha256(parts)
