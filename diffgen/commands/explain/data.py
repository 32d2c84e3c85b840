"""The training set of a configuration as far as it is known: looked at where it is at hand."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffgen.config.build import build
from diffgen.config.recipe import Shape
from diffgen.dataset.download import offline
from diffgen.dataset.images import Images, shape_of
from diffgen.errors import UsageError

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


def data_of(config: Mapping[str, Any], needed: bool) -> Data:
    """The set of a configuration, read from disk if it is quick to; downloaded if `needed`.

    UsageError where it must be read and is not there.
    """
    settings, labels = config["dataset"], config["model"].get("labels", True)
    name = settings["name"]
    images = _images(settings) if needed or name not in SIZED else None
    if images is None and needed:
        images = build("dataset", settings).split("train")
    if images is not None:
        shape, classes = shape_of(images), len(images.classes)
    else:
        shape, classes = _known(settings)
    return Data(images.name if images else name, shape, classes if labels else 0, images)


def _images(settings: Mapping[str, Any]) -> Images | None:
    try:
        with offline():
            return build("dataset", settings).split("train")
    except UsageError:
        if settings["name"] not in (*PLAIN, *SIZED):
            raise
        build("dataset", settings)  # a wrong setting is a mistake, a missing file is not
        return None


def _known(settings: Mapping[str, Any]) -> tuple[Shape, int]:
    if settings["name"] in PLAIN:
        return PLAIN[settings["name"]]
    return (3, settings["size"], settings["size"]), 0
