"""The part of a checkpoint that diffgen vouches for, and the hash that seals it.

A checkpoint is Lightning's file (optimiser, loops, raw weights under `state_dict`) with two more
keys: `ema`, {name: {parameter: tensor}}, and `diffgen`, plain data: format, version, recipe,
range, shape, classes, training_hash, hash.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

FORMAT = 2
FORMATS = (1, FORMAT)  # 1: diffgen 0.1.0; see upgrade.py


def seal(checkpoint: dict[str, Any]) -> None:
    """Write the hashes into the checkpoint."""
    header = {**checkpoint["diffgen"], "training_hash": training_hash(checkpoint)}
    header["hash"] = content_hash({**checkpoint, "diffgen": header})
    checkpoint["diffgen"] = header


def content_hash(checkpoint: dict[str, Any]) -> str:
    """SHA-256 (hex) over step, header, weights and averages, by name, type, shape and bytes."""
    digest = hashlib.sha256()
    header = {key: value for key, value in checkpoint["diffgen"].items() if key != "hash"}
    digest.update(json.dumps([checkpoint["global_step"], header], sort_keys=True).encode())
    for name, tensors in {"raw": checkpoint["state_dict"], **checkpoint["ema"]}.items():
        for key in sorted(tensors):
            digest.update(f"{name}/{key}/".encode())
            _update(digest, tensors[key])
    return digest.hexdigest()


def training_hash(checkpoint: dict[str, Any]) -> str:
    """SHA-256 (hex) over what only training goes on from: optimiser, rates, loops."""
    digest = hashlib.sha256()
    sealed = ("diffgen", "ema", "state_dict", "global_step")
    _update(digest, {key: value for key, value in checkpoint.items() if key not in sealed})
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    """Feed plain data and tensors to a hash."""
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}/{tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            digest.update(f"{key!r}:".encode())
            _update(digest, inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _update(digest, inner)
        digest.update(f"[{len(value)}]".encode())
    else:
        digest.update(repr(value).encode())
