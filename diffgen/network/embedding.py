"""What conditions a network's layers: an embedding of the noise level and of the label."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffgen.errors import UsageError
from diffgen.network.layers import initialised


def sinusoid(c_noise: Tensor, features: int) -> Tensor:
    """(B, features): sines, then cosines, of c_noise at frequencies from 1 down to 1/10000.

    DDPM's convention: the exponent is divided by features / 2 - 1, so that both ends are reached.
    """
    angles = _angles(c_noise, features // 2, features // 2 - 1)
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def cosines(c_noise: Tensor, features: int) -> Tensor:
    """(B, features): cosines, then sines, of c_noise at frequencies from 1 to above 1/10000.

    The convention of improved DDPM, ADM and DiT: the exponent is divided by features / 2.
    """
    angles = _angles(c_noise, features // 2, features // 2)
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def _angles(c_noise: Tensor, count: int, steps: int) -> Tensor:
    c_noise = c_noise.to(torch.promote_types(c_noise.dtype, torch.float32))
    frequencies = torch.arange(count, dtype=c_noise.dtype, device=c_noise.device)
    return c_noise[:, None] * torch.exp(-math.log(10_000) / steps * frequencies)


Frequencies = Callable[[Tensor, int], Tensor]


class LabelEmbedding(nn.Module):
    """(B, features): a learned vector per class and one, the last, for "no label"."""

    def __init__(self, num_classes: int, features: int) -> None:
        super().__init__()
        self.null = num_classes
        self.table = nn.Embedding(num_classes + 1, features)

    def forward(self, label: Tensor | None, like: Tensor) -> Tensor:
        return self.table(known_label(label, self.null, like))


class Condition(nn.Module):
    """(B, 4 width): the level through a two-layer perceptron, plus the label's vector, activated.

    DDPM activates this sum inside each residual block; once here is the same. `frequencies` embeds
    the level. What an augmentation did to the image, `augment` (B, augment_dim) or None for
    nothing, is told with the level (Karras et al. 2022, appendix F.2).
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        has_noise_input: bool,
        frequencies: Frequencies = sinusoid,
        augment_dim: int = 0,
    ) -> None:
        super().__init__()
        self.width, self.features, self.num_classes = width, 4 * width, num_classes
        self.frequencies = frequencies
        self.level = self._perceptron() if has_noise_input else None
        self.label = LabelEmbedding(num_classes, self.features) if num_classes else None
        self.augment = nn.Linear(augment_dim, width, bias=False) if augment_dim else None
        if self.augment:
            nn.init.zeros_(self.augment.weight)

    def _perceptron(self) -> nn.Module:
        first = initialised(nn.Linear(self.width, self.features))
        return nn.Sequential(
            first, nn.SiLU(), initialised(nn.Linear(self.features, self.features))
        )

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor | None,
        label: Tensor | None,
        augment: Tensor | None = None,
    ) -> Tensor | None:
        """None when there is neither a noise level nor classes."""
        label = known_label(label, self.num_classes, x)
        parts = []
        if self.level is not None:
            numbers = self.frequencies(known_level(c_noise), self.width)
            if self.augment is not None and augment is not None:
                numbers = numbers + self.augment(augment)
            parts.append(self.level(numbers))
        if self.label is not None:
            parts.append(self.label(label, x))
        return F.silu(sum(parts[1:], parts[0])) if parts else None


def known_level(c_noise: Tensor | None) -> Tensor:
    """c_noise; UsageError where a network that needs it got none."""
    if c_noise is None:
        raise UsageError("this network needs the noise level (c_noise), and got None")
    return c_noise


def known_label(label: Tensor | None, num_classes: int, like: Tensor) -> Tensor | None:
    """A label for every image of `like`: the null label where there is none, None without classes.

    UsageError for a label handed to a network that was built without classes.
    """
    if num_classes and label is None:
        return torch.full((like.shape[0],), num_classes, device=like.device)
    if label is not None and not num_classes:
        raise UsageError("this network is unconditional: leave the label out (label=None)")
    return label


class InputMaps(nn.Module):
    """The image and constant maps projected from `emb` (B, features), (B, C + maps, H, W)."""

    def __init__(self, features: int, maps: int) -> None:
        super().__init__()
        self.emb_proj = initialised(nn.Linear(features, maps))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        maps = self.emb_proj(emb)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return torch.cat((x, maps.to(x.dtype)), dim=1)
