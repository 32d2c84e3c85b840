"""DDPM++ and NCSN++: the U-Nets of Song et al. 2021, in the form that EDM gave them.

Song et al., Score-Based Generative Modeling through Stochastic Differential Equations (2021),
appendix H; Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models
(2022), table 7.
"""

import math
from functools import partial
from itertools import repeat
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from diffgen.network.blocks import Ascent, BlockStyle, Descent, Middle, levels
from diffgen.network.layers import AddedNorm, Blocks, Head, PlainNorm, conv3
from diffgen.network.pyramid import PYRAMIDS, EarlyCondition
from diffgen.network.resample import FilterDown, FilterUp
from diffgen.network.unet import check_unet

EPS = 1e-6
GROUPS = 32
SCALE = math.sqrt(0.5)  # of sums of two terms
SMALL = 1e-5  # gain of the layers that DDPM starts at zero
# A gain of sqrt(0.2) over one kernel for queries, keys and values, in the terms of three kernels.
GAIN = math.sqrt(0.1)


class SongUNet(nn.Module):
    """network(x (B, channels, size, size), c_noise (B,), label (B,)) -> (B, out_channels, ...)

    At the defaults it is the DDPM++ network of EDM's CIFAR-10, with 55.7 million parameters.
    Blocks halve and double the resolution, by filters of weights `taps`, and every sum of two
    terms is scaled by 1 / sqrt(2). `embedding` tells the level by a sinusoid, or by random Fourier
    features, twice as many (NCSN++). `encoder`: "residual" adds convolved smaller images to the
    features on the way down (NCSN++), "skip" resampled ones; `decoder`: "skip" sums an image of
    every resolution. The label and `augment` (B, augment_dim), a fourth argument, are added to the
    level's embedding; None is no label, and no augmentation. UsageError for a size that cannot be
    halved often enough.
    """

    def __init__(
        self,
        *,
        channels: PositiveInt,
        size: PositiveInt,
        num_classes: NonNegativeInt = 0,
        out_channels: PositiveInt | None = None,
        has_noise_input: bool = True,
        width: PositiveInt = 128,
        multipliers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (2, 2, 2),
        blocks: Blocks = 4,
        attention: tuple[PositiveInt, ...] = (16,),
        dropout: NonNegativeFloat = 0.0,
        embedding: Literal["sinusoid", "fourier"] = "sinusoid",
        encoder: Literal["standard", "skip", "residual"] = "standard",
        decoder: Literal["standard", "skip"] = "standard",
        taps: Annotated[tuple[PositiveInt, ...], Field(max_length=32)] = (1, 1),
        augment_dim: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        check_unet(size, width, len(multipliers) - 1, dropout)
        self.channels, self.size, self.num_classes = channels, size, num_classes
        self.out_channels = out_channels or channels
        self.condition = EarlyCondition(
            width, num_classes, has_noise_input, embedding == "fourier", augment_dim
        )
        norm = partial(PlainNorm, groups=GROUPS)
        if has_noise_input or num_classes:
            norm = partial(AddedNorm, groups=GROUPS, features=4 * width)
        style = BlockStyle(
            *(norm, GROUPS, dropout, 1, None, EPS, SCALE, GAIN, SMALL),
            convolved=True,
            attend_last=True,
        )
        attends = [size >> level in attention for level in range(len(multipliers))]
        ladder = levels([width * m for m in (1, *multipliers)], blocks, attends)
        above, own = [level.above for level in ladder], [level.channels for level in ladder]
        self.stem = conv3(channels, width)
        self.pyramid = PYRAMIDS[encoder](channels, above, taps)
        halve, twice = FilterDown(taps), FilterUp(taps)
        self.halvings = nn.ModuleList(style.block(n, n, resample=halve) for n in above[1:])
        self.doublings = nn.ModuleList(style.block(n, n, resample=twice) for n in own[1:])
        same = repeat(nn.Identity())
        self.descents = nn.ModuleList(map(Descent, ladder, repeat(style), same))
        self.middle = Middle(own[-1], style)
        self.ascents = nn.ModuleList(map(Ascent, ladder, repeat(style), same))
        drawn = own if decoder == "skip" else own[:1]
        heads = (Head(n, self.out_channels, GROUPS, EPS, SMALL) for n in drawn)
        self.heads, self.twice = nn.ModuleList(heads), twice

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor | None = None,
        label: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        emb = self.condition(x, c_noise, label, augment)
        kept: list[Tensor] = []
        aside, x = x, self.stem(x)
        for level, descent in enumerate(self.descents):
            if level:
                x, aside = self.pyramid(level, self.halvings[level - 1](x, emb), aside)
            maps = descent(x, emb)
            kept, x = kept + maps, maps[-1]
        x = self.middle(x, emb)
        images: list[Tensor] = []
        for level in reversed(range(len(self.ascents))):
            x = self.ascents[level](x, kept, emb)
            if level < len(self.heads):
                drawn = self.heads[level](x)
                images = [drawn + self.twice(images[0]) if images else drawn]
            if level:
                x = self.doublings[level - 1](x, emb)
        return images[0]
