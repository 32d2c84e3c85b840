"""Features of a fixed random convolutional network, which needs no weights and no labels."""

import math
from itertools import pairwise

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from diffgen.dataset.random_choices import words
from diffgen.errors import UsageError
from diffgen.evaluation.features import Extractor, described
from diffgen.files import sha256

LEAST_SIZE = 8


class RandomExtractor(Extractor):
    """`dim` features: means over positions of random filters at four scales, rectified.

    The same weights on every machine, from Philox words of `seed`. They rank coarsely: they see
    texture, colour and strokes, not what is shown. Saxe et al., On Random Weights and
    Unsupervised Feature Learning (2011), say why there is something in them.
    """

    batch = 250

    def __init__(
        self, *, dim: PositiveInt = 128, seed: NonNegativeInt = 0, device: str = "cpu"
    ) -> None:
        if dim % 4:
            raise UsageError(f"features.dim={dim}: four scales share them: a multiple of 4")
        self.name, self.dim = "random", dim
        self.module = _Pyramid(dim // 4, seed).requires_grad_(False).to(device)
        self.hash = sha256(["random", *described(self.module.state_dict())])[:12]

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        channels, *size = images.shape[1:]
        if channels not in (1, 3) or min(size) < LEAST_SIZE:
            raise UsageError(
                f"random features need grey or colour images of {LEAST_SIZE} pixels or more, not "
                f"{tuple(images.shape[1:])}; use features=classifier"
            )
        return self.module(images.expand(-1, 3, -1, -1).float() / 127.5 - 1), None


class _Pyramid(nn.Module):
    """Four convolutions, each at half the resolution of the one before, and their means."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        widths = (3, width, width, width, width)
        self.filters = nn.ParameterList(
            _normal(outputs, inputs, seed, k)
            for k, (inputs, outputs) in enumerate(pairwise(widths))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, 4 x width) of images (B, 3, H, W) in [-1, 1]."""
        means = []
        for k, filters in enumerate(self.filters):
            x = nn.functional.conv2d(x, filters, padding=1, stride=1 if k == 0 else 2).relu()
            means.append(x.mean((2, 3)))
        return torch.cat(means, 1)


def _normal(outputs: int, inputs: int, seed: int, layer: int) -> Tensor:
    """Filters (outputs, inputs, 3, 3), normal with He's variance, by Box and Muller's rule."""
    count = outputs * inputs * 9
    uniform = (words(2 * count, seed, layer) >> np.uint64(11)) * 2.0**-53 + 2.0**-54
    radius = np.sqrt(-2 * np.log(uniform[:count]))
    drawn = radius * np.cos(2 * np.pi * uniform[count:]) * math.sqrt(2 / (9 * inputs))
    return torch.from_numpy(drawn).float().view(outputs, inputs, 3, 3)
