"""A checkpoint in one file of safetensors: one state of the weights, and the rest as metadata.

The tensors stand under the names of the network's parameters, as other programs read them. The
metadata `diffgen` is JSON: `step`, `ema` (the name of the average, or `raw`), and `header`, what
diffgen.runs.checkpoint_format has a checkpoint say of itself, sealed by its hash.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.runs.checkpoint_format import PREFIX
from diffgen.runs.plain_pickle import reading

SUFFIX = ".safetensors"
KEY = "diffgen"
LARGEST = 2**22  # bytes of the names and the metadata in a file


def content(
    header: Mapping[str, Any], step: int, ema: str, weights: Mapping[str, Tensor]
) -> dict[str, Any]:
    """A checkpoint's content with these weights alone, `raw` ones or an average."""
    raw = {PREFIX + key: value for key, value in weights.items()} if ema == "raw" else {}
    averages = {} if ema == "raw" else {ema: dict(weights)}
    return {"state_dict": raw, "ema": averages, "global_step": step, "diffgen": dict(header)}


def written(sealed: Mapping[str, Any]) -> bytes:
    """The file of what `content` gave, sealed."""
    ema = next(iter(sealed["ema"]), "raw")
    states = sealed["ema"] or {"raw": sealed["state_dict"]}
    weights = {k.removeprefix(PREFIX): v.contiguous() for k, v in states[ema].items()}
    said = {"step": sealed["global_step"], "ema": ema, "header": sealed["diffgen"]}
    return save(weights, {"format": "pt", KEY: json.dumps(said)})


def read(path: Path, numbers: bool = True) -> dict[str, Any]:
    """A checkpoint's content; UsageError where a file is damaged or says nothing of diffgen.

    Without `numbers` the tensors are on the meta device.
    """
    with reading(path, "file of safetensors"):
        _check_size(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if KEY not in metadata:
                raise UsageError(
                    f"{path} holds weights and no recipe of diffgen; see `diffgen import --help`"
                )
            said = json.loads(metadata[KEY])
            weights = {key: _tensor(file, key, numbers) for key in file.keys()}  # noqa: SIM118
        return content(said["header"], said["step"], said["ema"], weights)


def _check_size(path: Path) -> None:
    """An exception where names and metadata are larger than those of any network."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
    if length > LARGEST:
        raise ValueError


def _tensor(file: Any, key: str, numbers: bool) -> Tensor:
    if numbers:
        return file.get_tensor(key)
    part = file.get_slice(key)
    return torch.empty(part.get_shape(), device="meta")
