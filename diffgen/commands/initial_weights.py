"""`init=PATH`: a new run that begins from the weights of a checkpoint or an import."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from diffgen.commands.resume import flat_settings, key_of
from diffgen.config.recipe import Recipe, Shape
from diffgen.config.schema import Train
from diffgen.dataset.images import listed
from diffgen.errors import UsageError
from diffgen.runs.checkpoint import Checkpoint, opened
from diffgen.runs.locate import locate

# What gives the weights their meaning, and all of a recipe that comes with them unless typed.
MEANING = ("network", "prediction", "model.noise_input", "model.range", "model.variance")
BROUGHT = ("network", "prediction", "model", "schedule", "times", "weighting")

T = TypeVar("T", bound=Train)

log = logging.getLogger(__name__)


def begun(settings: T, overrides: Sequence[str]) -> tuple[T, Checkpoint | None]:
    """The settings with the model of the checkpoint that `init` names, and that checkpoint.

    Data set, optimiser, averages and trainer are those of the line; schedule, times and weighting
    the checkpoint's, unless the line states them. UsageError where it states another network or
    prediction, or names another model.
    """
    if not settings.init:
        return settings, None
    path = locate(settings.init, Path(settings.runs))
    found, composed = opened(path, settings.trust), settings.plain
    name, theirs = composed["model"]["name"], found.recipe["model"]["name"]
    if name != theirs:
        raise UsageError(
            f"the weights of init={settings.init} are of model={theirs}, not {name}: give model="
            f"{theirs}"
        )
    found.average(settings.init_ema)
    typed = [key_of(word) for word in overrides]
    parts = {
        part: _unless_typed(found.recipe[part], composed[part], part, typed)
        for part in BROUGHT
        if part in found.recipe and part in composed
    }
    _check_meaning(found.recipe, parts, settings.init)
    recorded = {"init": str(found.path.absolute()), "init_hash": found.hash}
    settings = settings.replaced(**parts, **recorded)
    try:
        settings.recipe.check()
    except UsageError as error:
        raise UsageError(
            f"{str(error).rpartition(': ')[0]}; the weights of init={path} mean nothing else: "
            f"leave out schedule={settings.schedule['name']}, or init="
        ) from None
    return settings, found


def _unless_typed(
    theirs: Mapping[str, Any], composed: Mapping[str, Any], part: str, typed: Sequence[str]
) -> dict[str, Any]:
    """A part of a recipe with what the line states of it."""
    if part in typed and part != "model":
        return dict(composed)
    stated = [key.removeprefix(f"{part}.") for key in typed if key.startswith(f"{part}.")]
    return {**theirs, **{key: composed[key] for key in stated if key in composed}}


def _check_meaning(theirs: Mapping[str, Any], parts: Mapping[str, Any], init: str) -> None:
    """UsageError where the line states what would change the meaning of the weights."""
    before, now = flat_settings(theirs), flat_settings(parts)
    for key in sorted(before.keys() | now.keys()):
        fixed = any(key == name or key.startswith(f"{name}.") for name in MEANING)
        if fixed and before.get(key) != now.get(key):
            raise UsageError(
                f"{key}={now.get(key)}: the weights of init={init} are those of "
                f"{key}={before.get(key)} and mean nothing else; leave it out"
            )


def fill(
    network: nn.Module,
    recipe: Recipe,
    shape: Shape,
    classes: Sequence[str],
    found: Checkpoint,
    ema: str | float | None,
) -> None:
    """Give a network the checkpoint's weights `ema`, in place.

    Where the classes are others, what embeds labels keeps its first random weights. UsageError
    where the weights do not fit these images.
    """
    mine = network.state_dict()
    weights = found.states.get("raw", {}) | found.weights(ema)
    anew = set[str]()
    if tuple(classes) != found.classes:
        anew = _labels(recipe, shape, len(classes))
        known = _labels(recipe, found.shape, len(found.classes))
        weights = {key: weight for key, weight in weights.items() if key not in known}
    wanted = {key: value.shape for key, value in mine.items() if key not in anew}
    given = {key: value.shape for key, value in weights.items()}
    if wrong := sorted(dict(wanted.items() ^ given.items())):
        if shape == found.shape:
            raise UsageError(
                f"the weights of {found.path} are of a network of other sizes ({wrong[0]} "
                "differs): leave out the setting that changes it, or init="
            )
        raise UsageError(
            f"the weights of {found.path} are for images of {found.shape} and do not fit these "
            f"of {shape} ({wrong[0]} differs): take images of that shape, or leave init= out"
        )
    with torch.no_grad():
        for key in wanted:
            mine[key].copy_(weights[key])
    name = found.average(ema)
    log.info("begins from the weights ema=%s of %s, step %d", name, found.path, found.step)
    if tuple(classes) != found.classes:
        log.info(
            "the embedding of labels begins anew: the weights know the classes %s, these are %s",
            listed(found.classes) or "(none)",
            listed(classes) or "(none)",
        )


def _labels(recipe: Recipe, shape: Shape, count: int) -> set[str]:
    """The parameters that a network has for labels: those that another class would change."""
    if not count:
        return set()
    with torch.device("meta"):
        one, other = (recipe.raw_network(shape, n).state_dict() for n in (count, count + 1))
    return {key for key in one if one[key].shape != other[key].shape}
