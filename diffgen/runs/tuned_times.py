"""Tuned times on the disk: one small YAML for each way of sampling, beside its checkpoint's run.

Every way has a file of its own, so that jobs of a sweep never overwrite one another's.
"""

import inspect
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from diffgen.config.build import find
from diffgen.errors import UsageError
from diffgen.files import sha256_of_json, write_atomically
from diffgen.runs.checkpoint import Checkpoint


def place(checkpoint: Checkpoint, way: Mapping[str, Any]) -> Path:
    """Where the times stand for a way of sampling: {"sampler": {"name", ...}, "steps", ...}."""
    key = sha256_of_json(way)[:8]
    name = f"{checkpoint.path.stem}_{way['sampler']['name']}_{way['steps']}_{key}.yaml"
    return checkpoint.run / "tuned" / name


def keep(
    checkpoint: Checkpoint, way: Mapping[str, Any], times: Tensor, facts: Mapping[str, Any]
) -> Path:
    """Write times with what they are for and where they come from, plain data; the file."""
    path = place(checkpoint, way)
    told = {
        "checkpoint": checkpoint.hash,
        "step": checkpoint.step,
        "way": dict(way),
        "times": times.tolist(),
        **facts,
    }
    text = yaml.safe_dump(told, sort_keys=False)
    write_atomically(path, lambda file: file.write(text.encode()))
    return path


def kept(checkpoint: Checkpoint, way: Mapping[str, Any], remedy: str) -> Tensor:
    """The times (steps + 1,) of a way of sampling.

    UsageError where there are none, where they are damaged, and where the checkpoint has learned
    on since; `remedy` is the command that makes them.
    """
    if way["steps"] is None:
        raise UsageError("spacing=tuned needs a number of steps=")
    path = place(checkpoint, way)
    if not path.is_file():
        raise UsageError(f"no tuned times for this way of sampling; run {remedy}")
    try:
        told = yaml.safe_load(path.read_text())
        source, times = told["checkpoint"], torch.tensor(told["times"], dtype=torch.float64)
        sound = times.shape == (way["steps"] + 1,) and bool((times.diff() < 0).all())
        sound = sound and times[0] <= 1 and times[-1] == 0
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        raise UsageError(f"{path} is damaged; run {remedy}") from None
    if not sound:
        raise UsageError(f"{path} holds no falling times from 1 to 0; run {remedy}")
    if source != checkpoint.hash:
        raise UsageError(f"{path} was tuned for other weights; run {remedy} again")
    return times


def command(config: Mapping[str, Any], changed: Mapping[str, Any]) -> str:
    """The command that makes the tuned times of a request, as a person types it.

    `config` is that of `diffgen sample`, `changed` its sampler's settings that are no defaults.
    """
    own = {"checkpoint": "latest", "runs": "runs", "ema": None, "clip": "auto"}
    words = {key: config[key] for key, value in own.items() if config[key] != value}
    words["sampler"] = config["sampler"]["name"]
    words |= {f"sampler.{key}": value for key, value in changed.items()}
    words["steps"] = config["sampler"]["steps"]
    name = config["guidance"]["name"]
    if name != "classifier_free":
        words["guidance"] = name
    taken = inspect.signature(find("guidance", name)).parameters
    own = {"name": name, "classifier_free": 0} | {k: v.default for k, v in taken.items()}
    words |= {
        f"guidance.{k}": v for k, v in config["guidance"].items() if k not in own or v != own[k]
    }
    return shlex.join(["diffgen", "tune", *(f"{k}={_typed(v)}" for k, v in words.items())])


def _typed(value: object) -> str:
    """A setting as a command line takes it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_typed, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
