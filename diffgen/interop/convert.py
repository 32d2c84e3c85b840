"""Released checkpoints of the papers' own code and of diffusers, turned into ours.

Known kinds: `ncsn`, `ncsnv2` and `ddim`, the authors' files (a list, keys under `module.`, the
average last), with config.yml beside them where there is one; `ddpm-diffusers`, a folder with
config.json, or the weights in it. Nothing that a file says is run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from diffgen.config.build import build
from diffgen.errors import UsageError, did_you_mean
from diffgen.interop.diffusers import diffusers_recipe, read_diffusers
from diffgen.interop.files import Names, Released, State, adopt, read_config, read_released
from diffgen.interop.parameter_names import (
    CONDITIONAL,
    UNCONDITIONAL,
    ddim_names,
    diffusers_names,
    ncsn_names,
)
from diffgen.interop.recipes import Recipe, Shape, ddim_recipe, ncsn_recipe, ncsnv2_recipe
from diffgen.runs.stored_network import outline

BUFFERS = {"sigmas"}


@dataclass(frozen=True)
class Imported:
    """Foreign weights as ours: `raw` and `ema` ({} without) fit the network of `recipe`.

    `recipe` holds model, schedule and network, and dataset and ema where the files tell;
    `shape` is (C, H, W).
    """

    recipe: Recipe
    shape: Shape
    raw: State
    ema: State
    step: int


@dataclass(frozen=True)
class Kind:
    """How one program's files are read, what recipe they hold, how its parameters are called."""

    read: Callable[[Path], tuple[Released, dict[str, Any]]]
    recipe: Callable[[State, dict[str, Any], int | None], tuple[Recipe, Shape]]
    names: Callable[[nn.Module], Names]


def convert(kind: str, path: str | Path, size: int | None = None) -> Imported:
    """Read a released checkpoint; `size` (pixels) where neither weights nor config tell it.

    UsageError for an unknown kind, a missing or foreign file and another architecture.
    """
    if kind not in KINDS:
        raise UsageError(f"no import of {kind}{did_you_mean(kind, KINDS)}")
    how = KINDS[kind]
    released, config = how.read(Path(path))
    recipe, shape = how.recipe(released.state, config, size)
    network = outline(lambda: _network(recipe, shape), released.state, path)
    names = how.names(network)
    raw = adopt(_parameters(released.state), names, network)
    ema = adopt(_parameters(released.average), names, network) if released.average else {}
    return Imported(recipe, shape, raw, ema, released.step)


def _network(recipe: Recipe, shape: Shape) -> nn.Module:
    levels = recipe["schedule"]["levels"]
    return build("network", recipe["network"], channels=shape[0], size=shape[1], levels=levels)


def _parameters(state: State) -> State:
    return {key: value for key, value in state.items() if key not in BUFFERS}


def _read_authors(path: Path) -> tuple[Released, dict[str, Any]]:
    return read_released(path), read_config(path)


KINDS = {
    "ncsn": Kind(_read_authors, ncsn_recipe, lambda network: ncsn_names(network, CONDITIONAL)),
    "ncsnv2": Kind(
        _read_authors, ncsnv2_recipe, lambda network: ncsn_names(network, UNCONDITIONAL)
    ),
    "ddim": Kind(_read_authors, ddim_recipe, lambda network: ddim_names(network.state_dict())),
    "ddpm-diffusers": Kind(
        read_diffusers, diffusers_recipe, lambda network: diffusers_names(network.state_dict())
    ),
}
