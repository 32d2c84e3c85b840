"""Released checkpoints of other programs, turned into ours. Nothing that a file says is run.

Of EDM2 also a folder of snapshots, NAME-0134217-0.050.pkl: averages of several relative widths at
several times, in thousands of images (Karras et al. 2024, section 3), of which averages of other
widths are made.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from diffgen.runs.posthoc import width_of

SNAPSHOT = re.compile(r"(.*)-(\d{1,12})-(\d+\.\d+)\.pkl")


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
    return adopt(found.rewrite(state, network), found.names(network), network)


@dataclass(frozen=True)
class Snapshots:
    """Files by thousands of images and by width; each time has all the widths of the last one."""

    files: Mapping[int, Mapping[float, Path]]
    left_out: int

    @property
    def steps(self) -> list[int]:
        return sorted(self.files)

    def at(self, step: int) -> Imported:
        """The averages at a time; UsageError where they are of several networks."""
        states: dict[str, State] = {}
        found: Imported | None = None
        for width, path in self.files[step].items():
            one = convert("edm2", path)
            if found and (one.recipe, one.classes) != (found.recipe, found.classes):
                raise UsageError(f"{path} is of another network than the snapshots beside it")
            found, states[f"width_{width:g}"] = one, one.raw
        assert found
        kept = {f"width_{width:g}": {"width": width} for width in self.files[step]}
        recipe = {**found.recipe, "ema": kept}
        assumed = (self._summary(), *found.assumed[1:])
        changed = {"recipe": recipe, "raw": {}, "averages": states, "step": step}
        return replace(found, **changed, assumed=assumed)

    def _summary(self) -> str:
        widths = " and ".join(f"{width:g}" for width in self.files[self.steps[-1]])
        count, without = len(self.files), f"; {self.left_out} without all widths are left out"
        return (
            f"averages of width {widths} at {count} times in thousands of images, its steps "
            f"(ema=0.15 takes another width){without if self.left_out else ''}"
        )


def snapshots(folder: Path) -> Snapshots:
    """The snapshots in a folder; UsageError without any, and for those of several trainings."""
    found: dict[int, dict[float, Path]] = {}
    names: set[str] = set()
    for path in sorted(folder.iterdir()):
        if (parts := SNAPSHOT.fullmatch(path.name)) and path.is_file() and int(parts[2]):
            width = width_of(parts[3])
            assert width
            found.setdefault(int(parts[2]), {})[width] = path
            names.add(parts[1])
    if not found:
        raise UsageError(f"no snapshots in {folder}, such as network-snapshot-0134217-0.050.pkl")
    if len(names) > 1:
        raise UsageError(
            f"{folder} holds snapshots of {' and '.join(sorted(names))}: give a folder to each"
        )
    widths = found[max(found)].keys()
    whole = {at: files for at, files in found.items() if widths <= files.keys()}
    kept = {at: {width: files[width] for width in widths} for at, files in whole.items()}
    return Snapshots(kept, len(found) - len(kept))
