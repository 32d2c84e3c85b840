"""Released files read as data, without running anything, and their weights moved to our names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffgen.errors import UsageError
from diffgen.runs.plain_pickle import reading
from diffgen.runs.torch_file import read

State = dict[str, Tensor]
Names = Mapping[str, Sequence[str]]


Settings = Mapping[str, Any]
Recipe = dict[str, Any]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Release:
    """Weights under their program's names, and the recipe of the same model in ours.

    `state` and `average` ({} without one) become ours by `rewrite`, of a state and our network,
    and by `names` of that network. `classes` is their number. `assumed` are the things that no
    file says, one sentence each.
    """

    recipe: Recipe
    shape: Shape
    state: State
    names: Callable[[Any], Names]
    average: State = field(default_factory=dict)
    rewrite: Callable[[State, Any], State] = lambda state, network: state
    classes: int = 0
    step: int = 0
    assumed: tuple[str, ...] = ()


Reader = Callable[[Path, int | None, Settings], Release]


def read_training(path: Path) -> tuple[State, State, int]:
    """(weights, average or {}, step) of the NCSN and DDIM code.

    It saves a list [model, optimiser, epoch, step, average], cut short by NCSN, or bare weights.
    """
    data = read_weights(path)
    if isinstance(data, Mapping):
        return _weights(data, path), {}, 0
    if not isinstance(data, list) or len(data) < 2:
        raise UsageError(
            f"{path} is neither a list [model, optimiser, ...] nor a state of weights"
        )
    average = _weights(data[4], path) if len(data) > 4 else {}
    step = data[3] if len(data) > 3 else _adam_step(data[1])
    if type(step) is not int or step < 0:
        raise UsageError(f"{path} does not hold a step where the layout has it")
    return _weights(data[0], path), average, step


def read_weights(path: Path) -> Any:
    """What torch.save wrote, if it is tensors and plain data only; safetensors, too."""
    check_file(path)
    if path.suffix == ".safetensors":
        with reading(path, "file of safetensors"):
            return load_file(path)
    data = read(path)
    if isinstance(data, Mapping) and "diffgen" in data:
        raise UsageError(
            f"{path} is a checkpoint of diffgen: checkpoint= and init= take it as it is"
        )
    return data


def check_file(path: Path) -> None:
    """UsageError where this kind's file is a folder, or missing."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name the file in it")
    if not path.is_file():
        raise UsageError(f"no file at {path}")


def unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state without the prefix of torch's parallel modules."""
    return {key.removeprefix("module."): value for key, value in state.items()}


def read_state(path: Path) -> State:
    """Weights by name; UsageError where the file holds anything else."""
    return _weights(read_weights(path), path)


def _weights(data: Any, path: Path) -> State:
    named = isinstance(data, Mapping) and all(isinstance(k, str) for k in data)
    if not named or not all(isinstance(v, Tensor) for v in data.values()):
        raise UsageError(f"{path} does not hold weights where the layout has them")
    return unwrapped(data)


def _adam_step(optimizer: Any) -> int:
    try:
        return int(max((state.get("step", 0) for state in optimizer["state"].values()), default=0))
    except (KeyError, AttributeError, TypeError, ValueError, RuntimeError):
        return 0  # of no optimiser's layout


def adopt(state: Mapping[str, Tensor], names: Names, network: nn.Module) -> State:
    """`state` under our names: parts joined along the first axis, in the shapes of `network`.

    UsageError where a name is missing, left over, of whole numbers or of another size.
    """
    rest, ours = dict(state), {}
    for key, like in network.state_dict().items():
        missing = [name for name in names[key] if name not in rest]
        if missing:
            raise UsageError(f"the file lacks {missing[0]}: it holds another architecture")
        parts = [rest.pop(name) for name in names[key]]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        if like.is_floating_point() and not whole.is_floating_point():
            raise UsageError(
                f"{names[key][0]} is of {whole.dtype}, as quantised weights are: import the file "
                "that they were made from"
            )
        reshaped = whole.ndim != like.ndim and whole.numel() == like.numel()
        if not reshaped and whole.shape != like.shape:
            raise UsageError(
                f"{names[key][0]} has another size than expected: {list(whole.shape)}"
            )
        ours[key] = whole.reshape(like.shape).to(like.dtype)
    if rest:
        raise UsageError(f"{next(iter(rest))} has no place here: it is of another architecture")
    return ours


def to_theirs(state: Mapping[str, Tensor], names: Names) -> State:
    """The inverse of `adopt` where the shapes are theirs, too: `state` under their names."""
    theirs: State = {}
    for key, value in state.items():
        parts = value.chunk(len(names[key]))
        theirs |= {n: part.clone() for n, part in zip(names[key], parts, strict=True)}
    return theirs
