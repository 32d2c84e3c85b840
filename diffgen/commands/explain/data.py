"""The training set of a configuration as far as it is known: looked at where it is at hand."""

from dataclasses import dataclass

from diffgen.config.build import Choice
from diffgen.config.recipe import Shape
from diffgen.config.schema import Train
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
    else:
        shape, classes = _known(dataset)
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


def _known(dataset: Choice) -> tuple[Shape, int]:
    if dataset.name in PLAIN:
        return PLAIN[dataset.name]
    size = dataset.settings["size"]
    return (3, size, size), 0
