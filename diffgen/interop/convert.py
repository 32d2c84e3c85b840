"""Released checkpoints of the papers' own code and of diffusers, turned into ours.

Known kinds: `ncsn`, `ncsnv2` and `ddim`, the authors' files (a list, keys under `module.`, the
average last), with config.yml beside them where there is one; `ddpm-diffusers`, a folder with
config.json, or the weights in it. Nothing that a file says is run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from diffgen.config.build import build
from diffgen.errors import UsageError, did_you_mean
from diffgen.interop.config_files import Config
from diffgen.interop.diffusers import classes_of, diffusers_recipe, read_diffusers
from diffgen.interop.families import FAMILIES, read_family
from diffgen.interop.files import Names, Released, State, adopt, read_released
from diffgen.interop.parameter_names import (
    CONDITIONAL,
    UNCONDITIONAL,
    ddim_names,
    diffusers_names,
    ncsn_names,
)
from diffgen.interop.recipes import Recipe, Shape, ddim_recipe, ncsn_recipe, ncsnv2_recipe
from diffgen.interop.rules import RULES
from diffgen.interop.settings import read_settings

BUFFERS = {"sigmas"}


@dataclass(frozen=True)
class Imported:
    """Foreign weights as ours: `raw` and `ema` ({} without) fit the network of `recipe`.

    `recipe` holds model, schedule and network, and dataset and ema where the files tell;
    `shape` is (C, H, W), `classes` are names of those that the network takes labels of; `assumed`
    is what no file says; `averages` are the states of several averages by their names.
    """

    recipe: Recipe
    shape: Shape
    raw: State
    ema: State
    step: int
    classes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    averages: Mapping[str, State] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """How one program's files are read, what recipe they hold, how its parameters are called."""

    read: Callable[[Path, Config], Released]
    recipe: Callable[[State, Config, int | None], tuple[Recipe, Shape]]
    names: Callable[[nn.Module], Names]


def convert(
    kind: str, path: Path, size: int | None = None, config: Config | None = None
) -> Imported:
    """Read a released checkpoint; `size` (pixels) where neither weights nor config tell it.

    `config` is what rules.read_settings found, which is asked where it is None. UsageError for an
    unknown kind, a missing or foreign file, a setting that is not honoured, another architecture.
    """
    if kind not in RULES:
        raise UsageError(f"no import of {kind}{did_you_mean(kind, RULES)}")
    config = read_settings(kind, path) if config is None else config
    if kind in FAMILIES:
        found, raw, ema = read_family(kind, path, size, config.get("flags", config))
        classes = tuple(map(str, range(found.classes)))
        return Imported(found.recipe, found.shape, raw, ema, found.step, classes, found.assumed)
    try:
        return _converted(KINDS[kind], path, size, config)
    except UsageError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError):
        raise UsageError(f"{path} is damaged, or no {kind}") from None


def _converted(how: Kind, path: Path, size: int | None, config: Config) -> Imported:
    released = how.read(path, config)
    recipe, shape = how.recipe(released.state, config, size)
    classes = tuple(map(str, range(classes_of(config))))
    with torch.device("meta"):  # names and shapes, but no memory
        network = _network(recipe, shape, len(classes))
    names = how.names(network)
    raw = adopt(_parameters(released.state), names, network)
    ema = adopt(_parameters(released.average), names, network) if released.average else {}
    return Imported(recipe, shape, raw, ema, released.step, classes)


def _network(recipe: Recipe, shape: Shape, classes: int) -> nn.Module:
    return build(
        "network",
        recipe["network"],
        channels=shape[0],
        size=shape[1],
        num_classes=classes,
        levels=recipe["schedule"].get("levels"),
        out_channels=shape[0] * (2 if recipe["model"].get("variance") == "learned" else 1),
    )


def _parameters(state: State) -> State:
    return {key: value for key, value in state.items() if key not in BUFFERS}


def _released(path: Path, _: Config) -> Released:
    return read_released(path)


KINDS = {
    "ncsn": Kind(_released, ncsn_recipe, lambda network: ncsn_names(network, CONDITIONAL)),
    "ncsnv2": Kind(_released, ncsnv2_recipe, lambda network: ncsn_names(network, UNCONDITIONAL)),
    "ddim": Kind(_released, ddim_recipe, lambda network: ddim_names(network.state_dict())),
    "ddpm-diffusers": Kind(
        read_diffusers, diffusers_recipe, lambda network: diffusers_names(network.state_dict())
    ),
}
