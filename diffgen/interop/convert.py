"""Released checkpoints of other programs, turned into ours. Nothing that a file says is run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from diffgen.config.recipe import recipe_of
from diffgen.errors import UsageError, did_you_mean
from diffgen.interop.config_files import Config
from diffgen.interop.diffusers import read_diffusers
from diffgen.interop.dit import read_dit
from diffgen.interop.ermongroup import read_ddim, read_ncsn, read_ncsnv2
from diffgen.interop.files import Reader, Recipe, Release, Shape, State, adopt
from diffgen.interop.nvlabs import read_edm, read_edm2
from diffgen.interop.openai import read_adm, read_improved
from diffgen.interop.score_sde import read_score_sde
from diffgen.interop.settings import read_settings


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


KINDS: dict[str, Reader] = {
    "ncsn": read_ncsn,
    "ncsnv2": read_ncsnv2,
    "ddim": read_ddim,
    "ddpm-diffusers": read_diffusers,
    "adm": read_adm,
    "dit": read_dit,
    "edm": read_edm,
    "edm2": read_edm2,
    "improved-diffusion": read_improved,
    "score_sde": read_score_sde,
}


def convert(
    kind: str, path: Path, size: int | None = None, config: Config | None = None
) -> Imported:
    """Read a released checkpoint; `size` (pixels) where neither weights nor config tell it.

    `config` is what settings.read_settings found, which is asked where it is None. UsageError for
    an unknown kind, a missing or foreign file, a setting that is not honoured, another
    architecture.
    """
    if kind not in KINDS:
        raise UsageError(f"no import of {kind}{did_you_mean(kind, KINDS)}")
    config = read_settings(kind, path) if config is None else config
    try:
        found = KINDS[kind](path, size, config.get("flags", config))
        if size not in (None, found.shape[1]):
            raise UsageError(f"--size {size}: {path} is of images of {found.shape[1]} pixels")
        recipe = recipe_of(found.recipe)
        with torch.device("meta"):  # names and shapes, but no memory
            network = recipe.raw_network(found.shape, found.classes)
        raw = _ours(found, found.state, network)
        ema = _ours(found, found.average, network) if found.average else {}
    except UsageError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError):
        raise UsageError(f"{path} is damaged, or no {kind}") from None
    classes = tuple(map(str, range(found.classes)))
    return Imported(found.recipe, found.shape, raw, ema, found.step, classes, found.assumed)


def _ours(found: Release, state: State, network: nn.Module) -> State:
    """Weights or their average as those of our network."""
    return adopt(found.rewrite(state, network), found.names(network), network)
