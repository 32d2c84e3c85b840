"""Settings that the training set answers: null in a configuration, plain numbers in a recipe."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffgen.config.build import build
from diffgen.dataset.diameter import Distance, widest
from diffgen.dataset.images import Images
from diffgen.dataset.pixels import RANGES, Range, standardised
from diffgen.files import WriteError, write_atomically
from diffgen.runs.checkpoint import locate, opened
from diffgen.schedule.ncsnv2 import levels_of

MOST = 10_000  # images from which mean and deviation are taken where each must be read first

Config = dict[str, Any]

log = logging.getLogger(__name__)


def waiting(config: Mapping[str, Any]) -> list[str]:
    """The keys whose null stands for what is measured in the training set."""
    schedule, model = config["schedule"], config["model"]
    keys = ["sigma_max", "levels"] if schedule.get("name") == "ncsnv2" else []
    found = [f"schedule.{key}" for key in keys if schedule.get(key) is None]
    if model.get("prediction") == "edm" and model.get("sigma_data") is None:
        found.append("model.sigma_data")
    return found


def followed(config: Config) -> Config:
    """The configuration with the schedule and the range of the checkpoint that model.guides names.

    One that names none is given back.
    """
    name = config["model"].get("guides")
    if not name:
        return config
    recipe = opened(locate(name, Path(config["runs"]))).recipe
    taken = {"range": recipe["model"].get("range", "symmetric"), "guides": None}
    return {**config, "schedule": recipe["schedule"], "model": {**config["model"], **taken}}


def resolved(config: Config, images: Images | None = None) -> Config:
    """The configuration with a number for each key that waits; one without any is given back.

    The training set is read, if it is not given, and its width is measured once for all runs.
    """
    if not waiting(config):
        return config
    if images is None:
        return resolved(config, build("dataset", config["dataset"]).split("train"))
    scale = range_of(config["model"].get("range", "symmetric"), images).scale
    schedule, model = dict(config["schedule"]), dict(config["model"])
    keys = waiting(config)
    if "model.sigma_data" in keys:
        model["sigma_data"] = rounded(range_of("standardised", images).scale / scale)
    if "schedule.sigma_max" in keys:
        distance = measured(images, config["cache"])
        schedule["sigma_max"] = rounded(distance.value / scale)
        _tell(distance, schedule["sigma_max"])
    if "schedule.levels" in keys:
        ends = schedule["sigma_max"], schedule["sigma_min"]
        schedule["levels"] = levels_of(*ends, schedule["C"], math.prod(images.pixels.shape[1:]))
        log.info("levels=%d: neighbours overlap by C=%g", schedule["levels"], schedule["C"])
    return {**config, "schedule": schedule, "model": model}


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
    path = Path(cache).expanduser() / "distances" / name
    try:
        return Distance(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        found = widest(images)
    try:
        write_atomically(path, lambda file: file.write(json.dumps(asdict(found)).encode()))
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
