"""What DDPM++ and NCSN++ have beside DDPM's U-Net: an embedding, and the image on the way down.

Song et al. 2021, appendix H; Karras et al. 2022, appendix F.1.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffgen.network.embedding import LabelEmbedding, known_label, known_level, sinusoid
from diffgen.network.layers import initialised
from diffgen.network.resample import FilterDown

FOURIER_SCALE = 16.0


class Fourier(nn.Module):
    """(B, features): sines, then cosines, of c_noise at fixed random frequencies."""

    frequencies: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", FOURIER_SCALE * torch.randn(features // 2))

    def forward(self, c_noise: Tensor) -> Tensor:
        wide = torch.promote_types(c_noise.dtype, torch.float32)
        angles = c_noise.to(wide)[:, None] * (2 * math.pi * self.frequencies)
        return torch.cat((angles.sin(), angles.cos()), dim=1)


class EarlyCondition(nn.Module):
    """(B, 4 width): the level, label and augmentation, summed, through a perceptron, activated."""

    def __init__(
        self,
        width: int,
        num_classes: int,
        has_noise_input: bool,
        fourier: bool = False,
        augment_dim: int = 0,
    ) -> None:
        super().__init__()
        self.inputs, self.num_classes = width * (2 if fourier else 1), num_classes
        self.fourier = Fourier(self.inputs) if fourier and has_noise_input else None
        self.label = LabelEmbedding(num_classes, self.inputs) if num_classes else None
        self.augment = nn.Linear(augment_dim, self.inputs, bias=False) if augment_dim else None
        first, last = nn.Linear(self.inputs, 4 * width), nn.Linear(4 * width, 4 * width)
        conditioned = has_noise_input or num_classes
        layers = (initialised(first), nn.SiLU(), initialised(last), nn.SiLU())
        self.level = nn.Sequential(*layers) if conditioned else None
        self.has_noise_input = has_noise_input
        self._start()

    def _start(self) -> None:
        """Labels as rows of classes would be, times the root of their number; none is zero."""
        if self.label:
            bound = math.sqrt(6 * self.num_classes / (self.num_classes + self.inputs))
            nn.init.uniform_(self.label.table.weight, -bound, bound)
            nn.init.zeros_(self.label.table.weight.data[-1])
        if self.augment:
            initialised(self.augment)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor | None,
        label: Tensor | None,
        augment: Tensor | None = None,
    ) -> Tensor | None:
        """None when there is neither a noise level nor classes."""
        label = known_label(label, self.num_classes, x)
        if self.level is None:
            return None
        emb = x.new_zeros(x.shape[0], self.inputs)
        if self.has_noise_input:
            c_noise = known_level(c_noise)
            emb = emb + (self.fourier or self._sinusoid)(c_noise)
        if self.label is not None:
            emb = emb + self.label(label, x)
        if self.augment is not None and augment is not None:
            emb = emb + self.augment(augment)
        return self.level(emb)

    def _sinusoid(self, c_noise: Tensor) -> Tensor:
        return sinusoid(c_noise, self.inputs)


class NoPyramid(nn.Module):
    """Features and image unchanged."""

    def __init__(self, channels: int, above: Sequence[int], taps: Sequence[int]) -> None:
        super().__init__()

    def forward(self, level: int, x: Tensor, aside: Tensor) -> tuple[Tensor, Tensor]:
        return x, aside


class SkipPyramid(nn.Module):
    """Adds the image, halved once more at each level and projected to the features."""

    def __init__(self, channels: int, above: Sequence[int], taps: Sequence[int]) -> None:
        super().__init__()
        self.halve = FilterDown(taps)
        convs = (initialised(nn.Conv2d(channels, count, 1)) for count in above[1:])
        self.convs = nn.ModuleList(convs)

    def forward(self, level: int, x: Tensor, aside: Tensor) -> tuple[Tensor, Tensor]:
        aside = self.halve(aside)
        return x + self.convs[level - 1](aside), aside


class ResidualPyramid(nn.Module):
    """Adds the last level's sum of this kind, at first the image, convolved and halved."""

    def __init__(self, channels: int, above: Sequence[int], taps: Sequence[int]) -> None:
        super().__init__()
        self.halve = FilterDown(taps, padded=False)
        padding = 1 + self.halve.overlap
        inputs = [channels, *above[1:-1]]
        convs = (
            initialised(nn.Conv2d(before, after, 3, padding=padding))
            for before, after in zip(inputs, above[1:], strict=True)
        )
        self.convs = nn.ModuleList(convs)

    def forward(self, level: int, x: Tensor, aside: Tensor) -> tuple[Tensor, Tensor]:
        x = (x + self.halve(self.convs[level - 1](aside))) * math.sqrt(0.5)
        return x, x


PYRAMIDS: dict[str, type[NoPyramid | SkipPyramid | ResidualPyramid]] = {
    "standard": NoPyramid,
    "skip": SkipPyramid,
    "residual": ResidualPyramid,
}
