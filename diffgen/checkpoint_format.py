"""The part of a checkpoint that diffgen vouches for, and the hash that seals it.

A checkpoint is Lightning's file (optimiser, loops, raw weights under `state_dict`) with two more
keys: `ema`, {name: {parameter: tensor}}, and `diffgen`, plain data: format, version, recipe,
range, shape, classes, hash.
"""

import hashlib
import json
from typing import Any

import torch

FORMAT = 1


def seal(checkpoint: dict[str, Any]) -> None:
    """Write the content hash into the checkpoint."""
    checkpoint["diffgen"] = {**checkpoint["diffgen"], "hash": content_hash(checkpoint)}


def content_hash(checkpoint: dict[str, Any]) -> str:
    """SHA-256 (hex) over step, header, raw weights and averages, by name, type, shape and bytes."""
    digest = hashlib.sha256()
    header = {key: value for key, value in checkpoint["diffgen"].items() if key != "hash"}
    digest.update(json.dumps([checkpoint["global_step"], header], sort_keys=True).encode())
    for name, tensors in {"raw": checkpoint["state_dict"], **checkpoint["ema"]}.items():
        for key in sorted(tensors):
            tensor = tensors[key].detach().cpu().contiguous()
            digest.update(f"{name}/{key}/{tensor.dtype}/{tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
