"""Settings that the training set answers: null in a configuration, plain numbers in a recipe."""

import json
import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from diffgen.config.schema import Train
from diffgen.dataset.diameter import Distance, widest
from diffgen.dataset.images import Images
from diffgen.dataset.pixels import RANGES, Range, standardised
from diffgen.errors import UsageError
from diffgen.files import WriteError, expanded, write_text
from diffgen.runs.checkpoint import opened
from diffgen.runs.locate import locate
from diffgen.schedule.ncsnv2 import levels_of

MOST = 10_000  # images from which mean and deviation are taken where each must be read first

LEAST = 1 / 255  # distance of two images that differ by one level in one pixel

T = TypeVar("T", bound=Train)

log = logging.getLogger(__name__)


def followed(settings: T) -> T:
    """The settings with the schedule and the range of the checkpoint that model.guides names.

    Settings that name none are given back.
    """
    name = settings.plain["model"].get("guides")
    if not name:
        return settings
    recipe = opened(locate(name, Path(settings.runs)), settings.trust).recipe
    taken = {"range": recipe["model"].get("range", "symmetric"), "guides": None}
    model = {**settings.plain["model"], **taken}
    return settings.replaced(schedule=recipe["schedule"], model=model)


def resolved(settings: T, images: Images | None = None) -> T:
    """The settings with a number for each key that is measured in the training set.

    The set is read if it is not given, and the distance between its images measured once for all
    runs. Settings without such a key are given back.
    """
    recipe = settings.recipe
    keys = recipe.unmeasured()
    if not keys:
        return settings
    if images is None:
        return resolved(settings, settings.dataset.build().split("train"))
    scale = range_of(recipe.model.range, images).scale
    parts = {key: part.plain() for key, part in recipe.parts().items() if part.unmeasured()}
    deviation = [key for key in ("prediction", "weighting") if f"{key}.sigma_data" in keys]
    for key in deviation:
        parts[key]["sigma_data"] = rounded(range_of("standardised", images).scale / scale)
    schedule = parts.get("schedule", {})
    if "schedule.sigma_max" in keys:
        distance = measured(images, settings.cache)
        if distance.value < LEAST:
            raise UsageError(
                f"no two images of {images.name} differ: no distance gives sigma_max",
                "set schedule.sigma_max=10, or take more images",
            )
        schedule["sigma_max"] = rounded(distance.value / scale)
        _tell(distance, schedule["sigma_max"])
    if "schedule.levels" in keys:
        ends = schedule["sigma_max"], schedule["sigma_min"]
        schedule["levels"] = levels_of(*ends, schedule["C"], math.prod(images.pixels.shape[1:]))
        log.info("levels=%d: neighbours overlap by C=%g", schedule["levels"], schedule["C"])
    return settings.replaced(**parts)


def range_of(name: str, images: Images) -> Range:
    """The range of numbers in which a model sees these images."""
    if name in RANGES:
        return RANGES[name]
    if isinstance(images.pixels, Tensor):
        return standardised(images.pixels)
    count = min(len(images), MOST)
    return standardised(images.at(torch.linspace(0, len(images) - 1, count).long()))


def measured(images: Images, cache: str) -> Distance:
    """How far apart the images lie, kept in the cache by their fingerprint."""
    name = f"{images.name}_{images.fingerprint}.json"
    path = expanded(cache) / "distances" / name
    try:
        return Distance(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        found = widest(images)
    try:
        write_text(path, json.dumps(asdict(found)))
    except WriteError as error:
        log.warning("the distance is not kept: %s", error)
    return found


def rounded(value: float) -> float:
    """Six digits of a measured number."""
    return float(f"{value:.6g}")


def _tell(distance: Distance, sigma_max: float) -> None:
    text = "sigma_max=%g: the largest distance between two of %d images"
    if distance.images < distance.total:
        text += f" out of {distance.total}, a lower bound"
    elif not distance.exact:
        text += " that was found before the search grew too long, a lower bound"
    log.info(text, sigma_max, distance.images)
