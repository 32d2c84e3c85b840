"""Checkpoints: recipe and weights in one file, data and never code.

They are written by diffgen.training.saving in the layout of diffgen.runs.checkpoint_format.
Reading runs nothing that the file says: tensors and plain data only, a recipe rebuilt by exact
names.
"""

import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from diffgen.config.recipe import ClassifierRecipe, DenoiserRecipe, Recipe, Shape, recipe_of
from diffgen.dataset.pixels import Range
from diffgen.denoiser.base import NoisyClassifier, Preconditioned
from diffgen.errors import UsageError, did_you_mean
from diffgen.runs import posthoc, safetensors_file, torch_file
from diffgen.runs.checkpoint_format import FORMATS, PREFIX, content_hash, training_hash
from diffgen.runs.header_check import check
from diffgen.runs.upgrade import upgraded

Made = TypeVar("Made", Preconditioned, NoisyClassifier)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file holds: `states` maps `raw` and the names of the averages to weights.

    trust: the packages whose classes its recipe may name, as the reader said.
    """

    path: Path
    hash: str
    step: int
    recipe: dict[str, Any]
    range: Range
    shape: Shape
    classes: tuple[str, ...]
    states: dict[str, dict[str, Tensor]]
    trust: tuple[str, ...] = ()

    @property
    def run(self) -> Path:
        """The folder of the run that wrote it."""
        folder = self.path.parent
        return folder.parent if folder.name == "checkpoints" else folder

    def average(self, ema: str | float | None) -> str:
        """The name of the weights meant by `ema`: the first average by default, else raw.

        A number is the relative width of an average made afterwards (see diffgen.runs.posthoc).
        """
        if width := posthoc.width_of(ema):
            self._plan(width)  # that it can be made
            return f"{width:g}"
        name = str(ema or "") or next((name for name in self.states if name != "raw"), "raw")
        kept = [name for name, weights in self.states.items() if weights]
        if name not in kept:
            raise UsageError(f"no weights ema={name} in {self.path}{did_you_mean(name, kept)}")
        return name

    @cached_property
    def _parsed(self) -> Recipe:
        return recipe_of(self.recipe, self.trust)

    def denoiser_recipe(self) -> DenoiserRecipe:
        """The recipe of a model that makes images; UsageError where it is none."""
        recipe = self._parsed
        if not isinstance(recipe, DenoiserRecipe):
            raise UsageError(
                f"{self.path} is a classifier and makes no images: it guides another model by "
                "guidance=classifier guidance.checkpoint=PATH"
            )
        return recipe

    def weights(self, ema: str | float | None = None) -> dict[str, Tensor]:
        """The weights meant by `ema`, by the names of the network's parameters."""
        if width := posthoc.width_of(ema):
            return posthoc.combined(self._kept(width))
        return self.states[self.average(ema)]

    def made_of(self, ema: str | float | None) -> list[str]:
        """The hashes of the files that give these weights."""
        width = posthoc.width_of(ema)
        others = self._plan(width).keys() - {self.path} if width else ()
        return [
            self.hash,
            *(_data(path, numbers=False)["diffgen"]["hash"] for path in sorted(others)),
        ]

    def _kept(self, width: float) -> Iterator[tuple[float, dict[str, Tensor]]]:
        """Coefficients and averages, one file in memory at a time."""
        for path, factors in self._plan(width).items():
            states = self.states if path == self.path else load(path).states
            yield from ((factor, states[name]) for name, factor in factors.items())

    def _plan(self, width: float) -> dict[Path, dict[str, float]]:
        return posthoc.plan(self.path, self.step, self.recipe["ema"], width)

    def denoiser(self, ema: str | float | None = None) -> Preconditioned:
        """The denoiser with these weights, ready to sample: in eval mode, without gradients."""
        recipe = self.denoiser_recipe()
        return self._filled(ema, lambda: recipe.denoiser(self.shape, len(self.classes)))

    def classifier(self, ema: str | float | None = None) -> NoisyClassifier:
        """The classifier with these weights, in eval mode; UsageError where it is none."""
        recipe = self._parsed
        if not isinstance(recipe, ClassifierRecipe):
            raise UsageError(
                f"{self.path} is no classifier: train one with `diffgen train model=classifier "
                "model.noise_conditional=true`"
            )
        return self._filled(ema, lambda: recipe.classifier(self.shape, len(self.classes)))

    def _filled(self, ema: str | float | None, make: Callable[[], Made]) -> Made:
        """The module that `make` makes, with these weights.

        A network of this package is made without memory, on the meta device, and takes the tensors
        of the file: a recipe of a few bytes may ask for a network that fills any memory.
        """
        trusted = ":" in self._parsed.network.name  # the user's own class may need its numbers
        weights = self.states["raw"] | self.weights(ema)
        try:
            with torch.device("cpu" if trusted else "meta"):
                made = make()
        except UsageError:
            raise
        except Exception as error:  # values that no class foresees
            raise UsageError(
                f"the recipe in {self.path} describes no network ({_line(error, 0)})"
            ) from None
        try:
            made.network.load_state_dict(weights, assign=not trusted)
        except RuntimeError as error:
            raise UsageError(
                f"the weights in {self.path} are not those of its recipe's network for images of "
                f"{self.shape} and {len(self.classes)} classes ({_line(error, -1)})"
            ) from None
        if not all(bool(w.isfinite().all()) for w in weights.values()):
            raise UsageError(
                f"the weights ema={ema or self.average(None)} in {self.path} are not finite: the "
                "training diverged"
            )
        made = made if trusted else made.float()  # released weights may be halves
        return made.eval().requires_grad_(False)


def load(path: str | Path, trust: Collection[str] = ()) -> Checkpoint:
    """Read a checkpoint; UsageError where it is missing, damaged, foreign or changed.

    trust: packages whose classes its recipe may name.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no checkpoint at {path}")
    try:
        return _checkpoint(path, contents(path), tuple(trust))
    except (LookupError, TypeError, AttributeError):
        raise UsageError(
            f"{path} is damaged: what a checkpoint says of itself is missing"
        ) from None


def contents(path: Path) -> dict[str, Any]:
    """All that a checkpoint holds, in today's format, its hashes and its header checked.

    UsageError where it is damaged, foreign, changed, or asks for more than its size allows.
    """
    data = _data(path)
    header = data["diffgen"]
    if header["format"] not in FORMATS:
        raise UsageError(
            f"{path} is of checkpoint format {header['format']}; this diffgen reads "
            f"{' and '.join(map(str, FORMATS))}"
        )
    training = header.get("training_hash")
    if content_hash(data) != header["hash"] or training not in (None, training_hash(data)):
        raise UsageError(f"{path} was changed after it was written: its content hash differs")
    data = upgraded(data)
    check(data, path)
    return data


def _data(path: Path, numbers: bool = True) -> dict[str, Any]:
    file = safetensors_file if path.suffix == safetensors_file.SUFFIX else torch_file
    data = file.read(path, numbers)
    wanted = {"diffgen", "ema", "state_dict", "global_step"}
    if not isinstance(data, dict) or not wanted <= data.keys():
        raise UsageError(f"{path} is a checkpoint of another program; see `diffgen import --help`")
    return data


def _checkpoint(path: Path, data: dict[str, Any], trust: tuple[str, ...]) -> Checkpoint:
    header = data["diffgen"]
    raw = {k.removeprefix(PREFIX): v for k, v in data["state_dict"].items()}
    return Checkpoint(
        path=path,
        hash=header["hash"],
        step=data["global_step"],
        recipe=header["recipe"],
        range=Range(**header["range"]),
        shape=tuple(header["shape"]),
        classes=tuple(header["classes"]),
        states={"raw": raw, **data["ema"]},
        trust=trust,
    )


def _line(error: Exception, number: int) -> str:
    """Of what an error says: its first line (0) or its last (-1)."""
    return (str(error).strip().splitlines() or [type(error).__name__])[number].strip()


class Stored(NamedTuple):
    """What a checkpoint says of itself; its hash is not checked."""

    hash: str
    step: int
    recipe: dict[str, Any]


def stored(path: Path) -> Stored:
    """What a checkpoint says of itself, read without its weights; UsageError where it does not."""
    try:
        data = upgraded(_data(path, numbers=False))
        return Stored(data["diffgen"]["hash"], data["global_step"], data["diffgen"]["recipe"])
    except (LookupError, TypeError, AttributeError):
        raise UsageError(f"{path} is damaged: its recipe is missing") from None


def opened(path: Path, trust: Collection[str] = ()) -> Checkpoint:
    """As `load`, read once per process while the file stays the same."""
    stamp = path.stat().st_mtime_ns if path.is_file() else 0
    return _opened(path.resolve(), stamp, tuple(trust))


@functools.lru_cache(maxsize=4)
def _opened(path: Path, stamp: int, trust: tuple[str, ...]) -> Checkpoint:
    return load(path, trust)
