"""A plain convolutional network at one resolution: the smallest one that learns a score."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from diffgen.network.embedding import Condition
from diffgen.network.layers import AddedNorm, Head, PlainNorm, conv3, group_norm, initialised


class Dilated(nn.Module):
    """network(x (B, channels, H, W), c_noise (B,), label (B,) or None) -> (B, out_channels, H, W).

    One residual block for each of `dilations`, on `width` channels, given the level and the label
    as DDPM's U-Net is. No down-sampling, so any size will do; the convolutions of the defaults see
    35 pixels across, 5 and 2 + 2 d more for each dilation d.
    """

    def __init__(
        self,
        *,
        channels: PositiveInt,
        size: PositiveInt,
        num_classes: NonNegativeInt = 0,
        out_channels: PositiveInt | None = None,
        has_noise_input: bool = True,
        width: Annotated[int, Field(ge=4, multiple_of=2)] = 64,
        dilations: Annotated[tuple[PositiveInt, ...], Field(max_length=128)] = (1, 2, 4, 2, 1),
        groups: PositiveInt = 32,
    ) -> None:
        super().__init__()
        self.channels, self.size, self.num_classes = channels, size, num_classes
        self.out_channels = out_channels or channels
        self.condition = Condition(width, num_classes, has_noise_input)
        features = self.condition.features if has_noise_input or num_classes else None
        self.stem = conv3(channels, width)
        blocks = (_Block(width, dilation, groups, features) for dilation in dilations)
        self.blocks = nn.ModuleList(blocks)
        self.head = Head(width, self.out_channels, groups)

    def forward(
        self, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        emb = self.condition(x, c_noise, label)
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, emb)
        return self.head(x)


class _Block(nn.Module):
    """x + norm, swish, conv, norm with emb, swish, conv, the first convolution being dilated."""

    def __init__(self, channels: int, dilation: int, groups: int, features: int | None) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups)
        wide = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.conv = initialised(wide)
        norm = AddedNorm(channels, groups, features) if features else PlainNorm(channels, groups)
        self.emb_norm = norm
        self.last = conv3(channels, channels, gain=0.0)

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        hidden = self.conv(F.silu(self.norm(x)))
        return x + self.last(F.silu(self.emb_norm(hidden, emb)))
