"""All that `explain` shows of a configuration, gathered."""

from dataclasses import dataclass
from typing import Any

import torch

from diffgen.commands.data_dependent import measured, range_of
from diffgen.commands.explain.cost import Cost
from diffgen.commands.explain.ladder import Ladder, ladder_of
from diffgen.commands.explain.own_sampler import OwnSampler, own_sampler
from diffgen.commands.explain.warnings import ema_warnings, warnings_of
from diffgen.config.build import Choice
from diffgen.config.recipe import DenoiserRecipe, Recipe, Shape
from diffgen.config.schema import Train
from diffgen.dataset.diameter import Distance
from diffgen.dataset.download import offline
from diffgen.dataset.images import Images, shape_of
from diffgen.dataset.pixels import RANGES
from diffgen.errors import UsageError
from diffgen.schedule import Schedule

# shape and number of classes of the sets that are always the same
PLAIN: dict[str, tuple[Shape, int]] = {
    "mnist": ((1, 28, 28), 10),
    "fashion_mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "svhn": ((3, 32, 32), 10),
}
SIZED = ("celeba", "lsun", "ffhq")  # in colour, unlabelled, of the configured size; slow to read


@dataclass(frozen=True)
class Data:
    """Shape (C, H, W) and classes of a training set; `images` where it was read."""

    name: str
    shape: Shape
    num_classes: int
    images: Images | None

    @property
    def dimension(self) -> int:
        """How many numbers an image is."""
        channels, height, width = self.shape
        return channels * height * width


def data_of(settings: Train, needed: bool) -> Data:
    """The set of a configuration, read from disk if it is quick to; downloaded if `needed`.

    UsageError where it must be read and is not there.
    """
    dataset, labels = settings.dataset, settings.recipe.model.labels
    images = _images(dataset) if needed or dataset.name not in SIZED else None
    if images is None and needed:
        images = dataset.build().split("train")
    if images is not None:
        shape, classes = shape_of(images), len(images.classes)
    elif dataset.name in PLAIN:
        shape, classes = PLAIN[dataset.name]
    else:
        size = dataset.settings["size"]
        shape, classes = (3, size, size), 0
    name = images.name if images else dataset.name
    return Data(name, shape, classes if labels else 0, images)


def _images(dataset: Choice) -> Images | None:
    try:
        with offline():
            return dataset.build().split("train")
    except UsageError:
        if dataset.name not in (*PLAIN, *SIZED):
            raise
        dataset.build()  # a wrong setting is a mistake, a missing file is not
        return None


@dataclass(frozen=True)
class Explanation:
    """A resolved configuration and what follows from it.

    `sampler` is None for a classifier, which makes no images; `grey` is one grey level of 256 in
    the model's range; `distance` is technique 1's for the data, None where it was not measured;
    `recipe` the file that was applied, None without.
    """

    config: dict[str, Any]
    recipe: str | None
    data: Data
    parameters: int
    ladder: Ladder
    sampler: OwnSampler | None
    grey: float
    distance: Distance | None
    apart: float | None
    warnings: list[str]
    cost: Cost | None = None


def explained(settings: Train, data: Data, recipe: str | None) -> Explanation:
    """What settings without unmeasured ones come to."""
    parts = settings.recipe
    schedule: Schedule = parts.schedule.build()
    ladder = ladder_of(schedule, data.dimension)
    name = parts.model.range
    of = RANGES[name] if data.images is None else range_of(name, data.images)
    distance = measured(data.images, settings.cache) if data.images else None
    sampler = None
    if isinstance(parts, DenoiserRecipe) and settings.sampler:
        sampler = own_sampler(settings.sampler, parts, schedule)
    grey, apart = 1 / 255 / of.scale, distance.value / of.scale if distance else None
    return Explanation(
        config=settings.plain,
        recipe=recipe,
        data=data,
        parameters=parameters(parts, data),
        ladder=ladder,
        sampler=sampler,
        grey=grey,
        distance=distance,
        apart=apart,
        warnings=[
            *warnings_of(schedule, ladder, data.dimension, grey, apart),
            *ema_warnings(settings.ema, settings.trainer.max_steps),
            *filter(None, [settings.optimizer.warning(settings.trainer.max_steps)]),
            *([sampler.warning] if sampler and sampler.warning else []),
        ],
    )


def parameters(recipe: Recipe, data: Data) -> int:
    """How many numbers the network learns, counted without making them."""
    with torch.device("meta"):
        network = recipe.raw_network(data.shape, data.num_classes)
    return sum(parameter.numel() for parameter in network.parameters())
