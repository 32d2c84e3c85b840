"""Features of a small classifier of the data set itself; a distance on them is FD(classifier)."""

import copy

from torch import Tensor, nn

from diffgen.errors import UsageError
from diffgen.evaluation.features import Extractor
from diffgen.files import sha256


class ClassifierExtractor(Extractor):
    """The penultimate layer and the logits of a trained classifier.

    `network` is any module with the numbers `channels`, `size` and `dim` and a method
    `features(x)` that takes images in [-1, 1], (B, channels, size, size), and gives features
    (B, dim) and logits (B, K). It is copied: training it on changes nothing here.
    """

    name = "classifier"

    def __init__(self, network: nn.Module, *, device: str = "cpu", batch: int = 250) -> None:
        self.module = copy.deepcopy(network).eval().requires_grad_(False).to(device)
        self.dim, self.batch = int(self._number("dim")), batch
        self.hash = weights_hash(network)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        channels, size = self._number("channels"), self._number("size")
        if images.shape[1:] != (channels, size, size):
            raise UsageError(
                f"this classifier was trained on images of shape {(channels, size, size)}, not "
                f"{tuple(images.shape[1:])}; train one on this data set or use features=inception"
            )
        return self.module.features(images.float() / 127.5 - 1)  # type: ignore[operator]

    def _number(self, name: str) -> int:
        return getattr(self.module, name)


def weights_hash(network: nn.Module) -> str:
    """12 hexadecimal digits over the kind of network and its weights by name, type and bytes."""
    parts: list[str | Tensor] = [type(network).__name__]
    for name, tensor in sorted(network.state_dict().items()):
        parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}", tensor]
    return sha256(parts)[:12]
