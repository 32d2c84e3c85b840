"""The parts of a RefineNet with dilated convolutions (Song and Ermon 2019, appendix A).

After Lin et al., RefineNet: Multi-Path Refinement Networks (2017), with norms that are given
something. In `Norm`, a norm is made for a number of channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffgen.network.layers import GroupNorm


class Given(NamedTuple):
    """What conditions the norms: rows of their tables, each (B,) int64, or None."""

    level: Tensor | None = None
    label: Tensor | None = None


class InstanceNormPlus(nn.Module):
    """gamma ((x - mu) / s + alpha (mu - m) / v) + beta, (B, C, H, W), C at least 2.

    mu and s are the mean and deviation of each channel over the pixels, m and v those of the mu
    over the channels. The second term keeps what an instance norm removes: how the channels'
    means differ, without which no score could tell an image's overall colour. gamma multiplies
    both terms, as in the authors' code. `table` (levels, 3, C) holds gamma, alpha, beta, one row
    for each noise level or one for all; `labels` adds to it, starting at zero.
    """

    def __init__(self, channels: int, levels: int = 1, num_classes: int = 0) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(levels, 3, channels))
        nn.init.normal_(self.table.data[:, :2], 1.0, 0.02)
        nn.init.zeros_(self.table.data[:, 2])
        # One channel a group is the instance norm, by a kernel that takes a third of its time.
        self.plain = GroupNorm(channels, channels, eps=1e-5, affine=False)
        rows = torch.zeros(num_classes + 1, 3, channels)
        self.labels = nn.Parameter(rows) if num_classes else None

    def forward(self, x: Tensor, given: Given) -> Tensor:
        gamma, alpha, beta = self._rows(given)[..., None, None].unbind(1)
        # Sums over pixels are not left to bfloat16, whatever the convolutions run in.
        wide = torch.promote_types(x.dtype, torch.float32)
        mean = x.mean(dim=(2, 3), keepdim=True, dtype=wide)
        spread, middle = torch.var_mean(mean, dim=1, keepdim=True)
        offset = alpha * (mean - middle) * (spread + 1e-5).rsqrt()
        return (self.plain(x) * gamma + (gamma * offset + beta)).to(x.dtype)

    def _rows(self, given: Given) -> Tensor:
        """(B or 1, 3, C)"""
        rows = self.table if given.level is None else self.table[given.level]
        return rows if self.labels is None else rows + self.labels[given.label]


class Unnormalised(nn.Module):
    """Stands where a network has no norm: the refinement of NCSNv2."""

    def forward(self, x: Tensor, given: Given) -> Tensor:
        return x


Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class RefineStyle:
    """What tells the NCSN family apart: the norms of encoder and decoder, and the pooling."""

    norm: Norm
    refine_norm: Norm
    pool: type[nn.MaxPool2d] | type[nn.AvgPool2d]


class Convolved(nn.Module):
    """Norm, ELU, then a 3 x 3 convolution; `act` off leaves the ELU out."""

    def __init__(self, norm: nn.Module, conv: nn.Conv2d, act: bool = True) -> None:
        super().__init__()
        self.norm, self.conv, self.act = norm, conv, act

    def forward(self, x: Tensor, given: Given) -> Tensor:
        x = self.norm(x, given)
        return self.conv(F.elu(x) if self.act else x)


class Residual(nn.Module):
    """shortcut(x) + two normalised convolutions; `enters` a stage: may widen, pool or dilate.

    A stage that is entered with dilation 1 halves the resolution, by the mean of 2 x 2 pixels
    behind the convolutions; one with a greater dilation keeps it.
    """

    def __init__(self, inputs: int, outputs: int, dilation: int, norm: Norm, enters: bool) -> None:
        super().__init__()
        self.first = Convolved(norm(inputs), _conv(inputs, inputs, dilation))
        self.second = Convolved(norm(inputs), _conv(inputs, outputs, dilation))
        self.halves = enters and dilation == 1
        self.shortcut = _shortcut(inputs, outputs, dilation) if enters else nn.Identity()

    def forward(self, x: Tensor, given: Given) -> Tensor:
        hidden = self.second(self.first(x, given), given)
        if self.halves:
            # The mean of pixels and a 1 x 1 convolution commute: pooling first is four times less.
            hidden, x = F.avg_pool2d(hidden, 2), F.avg_pool2d(x, 2)
        return self.shortcut(x) + hidden


class Adapter(nn.Module):
    """RefineNet's residual convolution unit: `blocks` times x + two convolutions without bias."""

    def __init__(self, channels: int, blocks: int, norm: Norm) -> None:
        super().__init__()

        def unit() -> Convolved:
            return Convolved(norm(channels), _conv(channels, channels, bias=False))

        self.blocks = nn.ModuleList(nn.ModuleList((unit(), unit())) for _ in range(blocks))

    def forward(self, x: Tensor, given: Given) -> Tensor:
        for block in self.blocks:
            first, second = block.children()
            x = x + second(first(x, given), given)
        return x


class Fusion(nn.Module):
    """The sum of several maps, convolved to `outputs` channels, at the first one's resolution."""

    def __init__(self, inputs: Sequence[int], outputs: int, norm: Norm) -> None:
        super().__init__()
        units = (Convolved(norm(count), _conv(count, outputs), act=False) for count in inputs)
        self.units = nn.ModuleList(units)

    def forward(self, maps: Sequence[Tensor], given: Given) -> Tensor:
        size = maps[0].shape[2:]
        convolved = [unit(x, given) for unit, x in zip(self.units, maps, strict=True)]
        same, *others = (_resized(x, size) for x in convolved)
        return sum(others, same)


class Context(nn.Module):
    """RefineNet's chained residual pooling: 5 x 5 pools at stride 1, each behind the last."""

    def __init__(self, channels: int, style: RefineStyle) -> None:
        super().__init__()
        self.pool = style.pool(5, stride=1, padding=2)
        self.norms = nn.ModuleList(style.refine_norm(channels) for _ in range(2))
        self.convs = nn.ModuleList(_conv(channels, channels, bias=False) for _ in range(2))

    def forward(self, x: Tensor, given: Given) -> Tensor:
        path = x = F.elu(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            path = conv(self.pool(norm(path, given)))
            x = x + path
        return x


class Refine(nn.Module):
    """One step back up: adapt a stage's map and the refined coarser one, fuse, pool, adapt."""

    def __init__(
        self, inputs: Sequence[int], outputs: int, style: RefineStyle, last: bool
    ) -> None:
        super().__init__()
        norm = style.refine_norm
        self.adapt = nn.ModuleList(Adapter(count, 2, norm) for count in inputs)
        self.fuse = Fusion(inputs, outputs, norm) if len(inputs) > 1 else None
        self.context = Context(outputs, style)
        self.out = Adapter(outputs, 3 if last else 1, norm)

    def forward(self, maps: Sequence[Tensor], given: Given) -> Tensor:
        adapted = [adapt(x, given) for adapt, x in zip(self.adapt, maps, strict=True)]
        x = self.fuse(adapted, given) if self.fuse else adapted[0]
        return self.out(self.context(x, given), given)


def _conv(inputs: int, outputs: int, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=bias)


def _shortcut(inputs: int, outputs: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1) if dilation == 1 else _conv(inputs, outputs, dilation)


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
