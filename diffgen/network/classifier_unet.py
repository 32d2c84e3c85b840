"""ADM's classifier of noisy images: the way down of its U-Net, and the classes by attention.

Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis (2021), section 4.
"""

from itertools import repeat
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from diffgen.errors import UsageError
from diffgen.network.blocks import BlockStyle, Descent, Middle, levels
from diffgen.network.embedding import Condition, cosines
from diffgen.network.layers import Blocks, conv3, group_norm, initialised
from diffgen.network.unet import Multipliers, check_unet, down, emb_norm_of, set_groups, widths_of


class ClassifierUNet(nn.Module):
    """Logits (B, num_classes) of images (B, channels, size, size) and their level, c_noise (B,).

    The way down and the middle are those of `unet` with the same settings. `pool`: "attention"
    asks one mean token of all pixels for the classes, "average" takes the mean of the features.
    `noise_conditional=False` makes a classifier of clean images. UsageError for a size that cannot
    be halved often enough.
    """

    classifies: ClassVar = True

    def __init__(
        self,
        *,
        channels: PositiveInt,
        size: PositiveInt,
        num_classes: PositiveInt,
        noise_conditional: bool = False,
        width: PositiveInt = 128,
        multipliers: Multipliers = (1, 2, 3, 4),
        blocks: Blocks = 2,
        attention: tuple[PositiveInt, ...] = (32, 16, 8),
        head_width: PositiveInt = 64,
        dropout: NonNegativeFloat = 0.0,
        groups: PositiveInt = 32,
        exact_groups: bool = False,
        embedding: Literal["add", "scale_shift"] = "scale_shift",
        downsample: Literal["centered", "residual"] = "residual",
        pool: Literal["attention", "average"] = "attention",
        norm_eps: PositiveFloat = 1e-5,
        stem: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        check_unet(size, width, len(multipliers) - 1, dropout)
        self.channels, self.size, self.num_classes = channels, size, num_classes
        self.condition = Condition(width, 0, noise_conditional, cosines)
        norm = emb_norm_of(embedding, noise_conditional, groups, 4 * width, norm_eps)
        style = BlockStyle(norm, groups, dropout, 1, head_width, norm_eps)
        attends = [size >> level in attention for level in range(len(multipliers))]
        first = stem or width
        ladder = levels([first, *widths_of(width, multipliers)], blocks, attends)
        enters = [
            conv3(channels, first),
            *(down(level.above, downsample, style) for level in ladder[1:]),
        ]
        self.descents = nn.ModuleList(map(Descent, ladder, repeat(style), enters))
        last = ladder[-1].channels
        self.middle = Middle(last, style)
        self.norm = group_norm(last, groups, norm_eps)
        pixels = (size >> (len(multipliers) - 1)) ** 2
        self.pool: nn.Module
        if pool == "attention":
            self.pool = AttentionPool(last, num_classes, pixels, max(1, last // head_width))
        else:
            self.pool = AveragePool(last, num_classes)
        if exact_groups:
            set_groups(self, groups)

    def forward(self, x: Tensor, c_noise: Tensor | None = None) -> Tensor:
        emb = self.condition(x, c_noise, None)
        for descent in self.descents:
            x = descent(x, emb)[-1]
        return self.pool(F.silu(self.norm(self.middle(x, emb))))


class AttentionPool(nn.Module):
    """What the mean of all pixels sees when it attends to them, (B, outputs)."""

    def __init__(self, channels: int, outputs: int, pixels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise UsageError(f"{channels} channels do not divide into {heads} attention heads")
        self.heads = heads
        self.places = nn.Parameter(torch.randn(channels, pixels + 1) / channels**0.5)
        self.qkv = initialised(nn.Linear(channels, 3 * channels))
        self.out = initialised(nn.Linear(channels, outputs))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)
        tokens = torch.cat((pixels.mean(2, keepdim=True), pixels), dim=2) + self.places
        batch, channels, count = tokens.shape
        heads = self.qkv(tokens.transpose(1, 2)).view(batch, count, 3, self.heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query[:, :, :1], key, value)
        return self.out(mixed.reshape(batch, channels))


class AveragePool(nn.Module):
    """A linear map of the mean over all pixels, (B, outputs), that starts at zero."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.out = initialised(nn.Linear(channels, outputs), gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.mean((2, 3)))
