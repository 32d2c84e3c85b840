"""A small convolutional classifier: features to measure images by, and a guide for samplers."""

import math
from itertools import pairwise
from typing import ClassVar

from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from diffgen.errors import UsageError
from diffgen.network.embedding import Condition
from diffgen.network.layers import PlainNorm, ScaledNorm, conv3, initialised

GROUPS = 8
LEAST_SIZE = 8
LAST_SIZE = 7
LAYOUT = 2
WIDEST = 8


class Classifier(nn.Module):
    """Logits (B, num_classes) of images (B, channels, size, size) in [-1, 1], size at least 8.

    Pairs of convolutions, each pair at half the resolution of the one before, down to about
    7 x 7; then `dim` features. Group norms only, so that an image's features are its own.
    `noise_conditional`: it classifies noisy images and gets their noise level, `c_noise` (B,),
    by the scale and shift of its norms.
    """

    classifies: ClassVar = True

    def __init__(
        self,
        *,
        channels: PositiveInt,
        size: PositiveInt,
        num_classes: PositiveInt,
        width: PositiveInt = 16,
        dim: PositiveInt = 64,
        dropout: NonNegativeFloat = 0.5,
        noise_conditional: bool = False,
    ) -> None:
        super().__init__()
        if size < LEAST_SIZE:
            raise UsageError(
                f"a classifier needs images of {LEAST_SIZE} pixels or more, not {size}"
            )
        self.channels, self.size, self.num_classes, self.dim = channels, size, num_classes, dim
        self.condition = Condition(max(width, 32), 0, has_noise_input=noise_conditional)
        features = self.condition.features if noise_conditional else None
        halvings = max(1, round(math.log2(size / LAST_SIZE)))
        widths = [channels, *(width * min(2**k, WIDEST) for k in range(halvings + 1))]
        pairs = pairwise(widths)
        self.stages = nn.ModuleList(_Stage(inputs, outputs, features) for inputs, outputs in pairs)
        self.squeeze = initialised(nn.Linear(widths[-1] * LAYOUT**2, dim))
        self.dropout = nn.Dropout(dropout)
        self.classify = initialised(nn.Linear(dim, num_classes))

    def forward(self, x: Tensor, c_noise: Tensor | None = None) -> Tensor:
        return self.features(x, c_noise)[1]

    def features(self, x: Tensor, c_noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The layer before the last, (B, dim), and the logits (B, num_classes)."""
        condition = self.condition(x, c_noise, None)
        for k, stage in enumerate(self.stages):
            x = stage(F.avg_pool2d(x, 2) if k else x, condition)
        layout = F.adaptive_avg_pool2d(x, LAYOUT).flatten(1)
        features = F.silu(self.squeeze(layout))
        return features, self.classify(self.dropout(features))


class _Stage(nn.Module):
    """Two convolutions at one resolution, each normed and activated."""

    def __init__(self, inputs: int, outputs: int, features: int | None) -> None:
        super().__init__()
        self.convs = nn.ModuleList((conv3(inputs, outputs), conv3(outputs, outputs)))
        self.norms = nn.ModuleList(
            ScaledNorm(outputs, GROUPS, features) if features else PlainNorm(outputs, GROUPS)
            for _ in self.convs
        )

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.silu(norm(conv(x), condition))
        return x
