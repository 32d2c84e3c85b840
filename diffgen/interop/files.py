"""Released files read as data, without running anything, and their weights moved to our names."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffgen.errors import UsageError
from diffgen.runs.torch_file import read

State = dict[str, Tensor]
Names = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Released:
    """What the NCSN and DDIM code saves: weights, their average ({} without one), the step."""

    state: State
    average: State
    step: int


def read_released(path: Path) -> Released:
    """The list [model, optimiser, epoch, step, average], cut short by NCSN, or bare weights."""
    data = read_weights(path)
    if isinstance(data, Mapping):
        return Released(_weights(data, path), {}, 0)
    if not isinstance(data, list) or len(data) < 2:
        raise UsageError(
            f"{path} is neither a list [model, optimiser, ...] nor a state of weights"
        )
    average = _weights(data[4], path) if len(data) > 4 else {}
    step = data[3] if len(data) > 3 else _adam_step(data[1])
    return Released(_weights(data[0], path), average, int(step))


def read_weights(path: Path) -> Any:
    """What torch.save wrote, if it is tensors and plain data only; safetensors, too."""
    if not path.is_file():
        raise UsageError(f"no file at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
    except (RuntimeError, ValueError, OSError, KeyError, SafetensorError):
        raise UsageError(f"{path} is truncated or no file of safetensors") from None
    return read(path)


def read_config(path: Path) -> dict[str, Any]:
    """config.yml beside a released file as a nested dict, {} where there is none.

    The authors' programs pickled argparse namespaces into it; they are read as mappings.
    """
    for name in ("config.yml", "config.yaml"):
        file = path.parent / name
        if file.is_file():
            return parse_config(file.read_text(), file)
    return {}


def parse_config(text: str, source: Path) -> dict[str, Any]:
    """A YAML text whose Python objects are taken for the mappings that they were made of."""
    try:
        config = yaml.load(text, _DataLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{source} is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(config, dict):
        raise UsageError(f"{source} holds no settings")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; UsageError where the file is missing or broken."""
    try:
        return json.loads(path.read_text())
    except OSError:
        raise UsageError(f"no file at {path}") from None
    except ValueError:
        raise UsageError(f"{path} is no JSON") from None


class _DataLoader(yaml.SafeLoader):
    """SafeLoader that reads `!!python/object:...` mappings as mappings; nothing is imported."""


def _plain(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


_DataLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


def _weights(data: Any, path: Path) -> State:
    if not isinstance(data, Mapping) or not all(isinstance(v, Tensor) for v in data.values()):
        raise UsageError(f"{path} does not hold weights where the layout has them")
    return {key.removeprefix("module."): value for key, value in data.items()}


def _adam_step(optimizer: Mapping[str, Any]) -> int:
    steps = [state.get("step", 0) for state in optimizer.get("state", {}).values()]
    return int(max(steps, default=0))


def adopt(state: Mapping[str, Tensor], names: Names, network: nn.Module) -> State:
    """`state` under our names: parts joined along the first axis, in the shapes of `network`.

    UsageError where a name is missing, left over or of another size: another architecture.
    """
    rest, ours = dict(state), {}
    for key, like in network.state_dict().items():
        missing = [name for name in names[key] if name not in rest]
        if missing:
            raise UsageError(f"the file lacks {missing[0]}: it holds another architecture")
        parts = [rest.pop(name) for name in names[key]]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        reshaped = whole.ndim != like.ndim and whole.numel() == like.numel()
        if not reshaped and whole.shape != like.shape:
            raise UsageError(
                f"{names[key][0]} has another size than expected: {list(whole.shape)}"
            )
        ours[key] = whole.reshape(like.shape).to(like.dtype)
    if rest:
        raise UsageError(f"{next(iter(rest))} has no place here: it is of another architecture")
    return ours


def release(state: Mapping[str, Tensor], names: Names) -> State:
    """The inverse of `adopt` where the shapes are theirs, too: `state` under their names."""
    theirs: State = {}
    for key, value in state.items():
        parts = value.chunk(len(names[key]))
        theirs |= {n: part.clone() for n, part in zip(names[key], parts, strict=True)}
    return theirs
