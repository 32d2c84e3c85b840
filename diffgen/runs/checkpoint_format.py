"""The part of a checkpoint that diffgen vouches for, and the hash that seals it.

A checkpoint is Lightning's file (optimiser, loops, raw weights under `state_dict`) with two more
keys: `ema`, {name: {parameter: tensor}}, and `diffgen`, plain data: format, version, recipe,
range, shape, classes, training_hash, hash.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from diffgen.dataset.pixels import Range
from diffgen.files import sha256

FORMAT = 2
FORMATS = (1, FORMAT)  # 1: diffgen 0.1.0; see upgrade.py
PREFIX = "denoiser.network."  # of the names under `state_dict`


def header(
    version: str,
    recipe: Mapping[str, Any],
    pixel_range: Range,
    shape: Sequence[int],
    classes: Sequence[str],
) -> dict[str, Any]:
    """What a checkpoint says of itself, plain data; `version` is diffgen's, `shape` (C, H, W)."""
    return {
        "format": FORMAT,
        "version": version,
        "recipe": dict(recipe),
        "range": {"shift": pixel_range.shift, "scale": pixel_range.scale},
        "shape": list(shape),
        "classes": list(classes),
    }


def seal(checkpoint: dict[str, Any]) -> None:
    """Write the hashes into the checkpoint."""
    header = {**checkpoint["diffgen"], "training_hash": training_hash(checkpoint)}
    header["hash"] = content_hash({**checkpoint, "diffgen": header})
    checkpoint["diffgen"] = header


def content_hash(checkpoint: dict[str, Any]) -> str:
    """SHA-256 (hex) over step, header, weights and averages, by name, type, shape and bytes."""
    return sha256(_content(checkpoint))


def _content(checkpoint: dict[str, Any]) -> Iterator[str | Tensor]:
    header = {key: value for key, value in checkpoint["diffgen"].items() if key != "hash"}
    yield json.dumps([checkpoint["global_step"], header], sort_keys=True)
    for name, tensors in {"raw": checkpoint["state_dict"], **checkpoint["ema"]}.items():
        for key in sorted(tensors):
            yield f"{name}/{key}/"
            yield from _parts(tensors[key])


def training_hash(checkpoint: dict[str, Any]) -> str:
    """SHA-256 (hex) over what only training goes on from: optimiser, rates, loops."""
    sealed = ("diffgen", "ema", "state_dict", "global_step")
    return sha256(_parts({key: value for key, value in checkpoint.items() if key not in sealed}))


def _parts(value: Any) -> Iterator[str | Tensor]:
    """Plain data and tensors as what a hash is fed with."""
    if isinstance(value, Tensor):
        yield f"{value.dtype}/{tuple(value.shape)}"
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"{key!r}:"
            yield from _parts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _parts(inner)
        yield f"[{len(value)}]"
    else:
        yield repr(value)
