"""All that is told of a configuration, gathered."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from diffgen.commands.data_dependent import measured, range_of
from diffgen.commands.explain.cost import Cost
from diffgen.commands.explain.data import Data
from diffgen.commands.explain.ladder import Ladder, ladder_of
from diffgen.commands.explain.sampler_plan import Way, way_of
from diffgen.commands.explain.warnings import doubts, early
from diffgen.config.build import build, typed
from diffgen.config.classifier_recipe import ClassifierSettings, any_network, settings_of
from diffgen.config.recipe import ModelSettings, check_fit
from diffgen.dataset.diameter import Distance
from diffgen.dataset.pixels import RANGES, Range
from diffgen.schedule import Schedule
from diffgen.training.ema import EmaSettings


@dataclass(frozen=True)
class Explanation:
    """A resolved configuration and what follows from it.

    `way` is None for a classifier, which makes no images; `grey` is one grey level of 256 in the
    model's range; `distance` is technique 1's for the data, None where it was not measured;
    `recipe` the file that was applied, None without.
    """

    config: dict[str, Any]
    recipe: str | None
    data: Data
    parameters: int
    ladder: Ladder
    way: Way | None
    grey: float
    distance: Distance | None
    scale: float
    doubts: list[str]
    cost: Cost | None = None

    @property
    def apart(self) -> float | None:
        """The largest distance between two images in the model's range, None if unknown."""
        return None if self.distance is None else self.distance.value / self.scale


def explained(config: dict[str, Any], data: Data, recipe: str | None) -> Explanation:
    """What a configuration without waiting settings comes to."""
    model = settings_of(config)
    schedule: Schedule = build("schedule", config["schedule"])
    if isinstance(model, ModelSettings):
        check_fit(model, schedule)
    ladder = ladder_of(schedule, data.dimension)
    of = _range(model, data)
    distance = measured(data.images, config["cache"]) if data.images else None
    averages = {k: typed(EmaSettings, f"ema.{k}", v) for k, v in config["ema"].items()}
    way = _way(config, model, schedule)
    grey, apart = 1 / 255 / of.scale, distance.value / of.scale if distance else None
    return Explanation(
        config=config,
        recipe=recipe,
        data=data,
        parameters=parameters(config, model, schedule, data),
        ladder=ladder,
        way=way,
        grey=grey,
        distance=distance,
        scale=of.scale,
        doubts=[
            *doubts(schedule, ladder, data.dimension, grey, apart),
            *early(averages, config["trainer"]["max_steps"]),
            *([way.doubt] if way and way.doubt else []),
        ],
    )


def parameters(
    config: Mapping[str, Any],
    model: ModelSettings | ClassifierSettings,
    schedule: Schedule,
    data: Data,
) -> int:
    """How many numbers the network learns, counted without making them."""
    with torch.device("meta"):
        network = any_network(config, model, schedule, data.shape, data.num_classes)
    return sum(parameter.numel() for parameter in network.parameters())


def _way(
    config: Mapping[str, Any], model: ModelSettings | ClassifierSettings, schedule: Schedule
) -> Way | None:
    if isinstance(model, ClassifierSettings):
        return None
    return way_of(config["sampler"], model, schedule)


def _range(model: ModelSettings | ClassifierSettings, data: Data) -> Range:
    if data.images is not None:
        return range_of(model.range, data.images)
    return RANGES[model.range]
