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

from diffgen.config.parts import SamplerSettings
from diffgen.config.schema import Sampling
from diffgen.errors import UsageError
from diffgen.files import sha256_of_json, write_text
from diffgen.runs.cell import home
from diffgen.runs.checkpoint import Checkpoint

LARGEST = 10**6  # bytes of a file of times


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases, by which a few lines may stand for any number of values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def path_of(checkpoint: Checkpoint, key: Mapping[str, Any]) -> Path:
    """Where the times stand for a key, {"sampler": {"name", ...}, "steps", ...}, under the run."""
    digest = sha256_of_json(key)[:8]
    name = f"{checkpoint.path.stem}_{key['sampler']['name']}_{key['steps']}_{digest}.yaml"
    return checkpoint.run / "tuned" / name


def own_path_of(checkpoint: Checkpoint, key: Mapping[str, Any], runs: Path) -> Path:
    """The same, or a place under `runs` where the run may only be read."""
    path = path_of(checkpoint, key)
    folder = home(checkpoint.run, "tuned", runs)
    return path if folder == path.parent else folder / checkpoint.hash[:12] / path.name


def write(
    checkpoint: Checkpoint,
    key: Mapping[str, Any],
    runs: Path,
    times: Tensor,
    facts: Mapping[str, Any],
) -> Path:
    """Write times with what they are for and where they come from, plain data; the file."""
    path = own_path_of(checkpoint, key, runs)
    record = {
        "checkpoint": checkpoint.hash,
        "step": checkpoint.step,
        "way": dict(key),
        "times": times.tolist(),
        **facts,
    }
    write_text(path, yaml.safe_dump(record, sort_keys=False))
    return path


def read(checkpoint: Checkpoint, key: Mapping[str, Any], runs: Path, remedy: str) -> Tensor:
    """The times (steps + 1,) tuned for a key.

    UsageError where there are none, where they are damaged, and where the checkpoint has learned
    on since; `remedy` is the command that makes them.
    """
    if key["steps"] is None:
        raise UsageError("spacing=tuned needs a number of steps=")
    path = own_path_of(checkpoint, key, runs)
    path = path if path.is_file() else path_of(checkpoint, key)
    if not path.is_file():
        raise UsageError(f"no tuned times for this way of sampling; run {remedy}")
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError
        record = yaml.load(path.read_text(), _Loader)
        source, stated = record["checkpoint"], record["times"]
        if not all(type(value) is float for value in stated):
            raise TypeError
        times = torch.tensor(stated, dtype=torch.float64)
        sound = times.shape == (key["steps"] + 1,) and bool((times.diff() < 0).all())
        sound = sound and times[0] <= 1 and times[-1] == 0
    except (OSError, ValueError, TypeError, LookupError, RecursionError, yaml.YAMLError):
        raise UsageError(f"{path} is damaged; run {remedy}") from None
    if not sound:
        raise UsageError(f"{path} holds no falling times from 1 to 0; run {remedy}")
    if source != checkpoint.hash:
        raise UsageError(f"{path} was tuned for other weights; run {remedy} again")
    return times


def command(settings: Sampling, sampler: SamplerSettings, changed: Mapping[str, Any]) -> str:
    """The command that makes the tuned times of a request, as a person types it.

    `sampler` is the one in force, `changed` its settings that are no defaults.
    """
    defaults = {"checkpoint": "latest", "runs": "runs", "ema": None, "clip": "auto"}
    given = {key: getattr(settings, key) for key in defaults}
    words = {key: given[key] for key, value in defaults.items() if given[key] != value}
    if settings.trust:
        words["trust"] = list(settings.trust)
    words |= _chosen("sampler", sampler.name, "own", changed)
    words["steps"] = sampler.steps
    guidance = settings.guidance
    taken = inspect.signature(guidance.choice.cls).parameters
    own = {"name": guidance.name, "classifier_free": 0}
    own |= {k: v.default for k, v in taken.items()}
    given = {k: v for k, v in guidance.given.items() if k not in own or v != own[k]}
    words |= _chosen("guidance", guidance.name, "none", given)
    if guidance.name == "classifier_free":
        del words["guidance"]
    return shlex.join(["diffgen", "tune", *(f"{k}={_typed(v)}" for k, v in words.items())])


def _chosen(group: str, name: str, bare: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A choice and its settings; a class of another package has a bare choice's file."""
    if ":" not in name:
        return {group: name, **{f"{group}.{key}": value for key, value in settings.items()}}
    own = {f"++{group}.{key}": value for key, value in settings.items()}
    return {group: bare, f"{group}.name": name, **own}


def _typed(value: object) -> str:
    """A setting as a command line takes it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_typed, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
