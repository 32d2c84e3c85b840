"""Residual blocks with an embedding of the noise level, and one resolution of a U-Net of them.

Ho et al., Denoising Diffusion Probabilistic Models (2020), appendix B.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffgen.network.attention import SelfAttention
from diffgen.network.layers import conv3, group_norm, initialised


@dataclass(frozen=True)
class BlockStyle:
    """What all residual blocks of a network share, and how to make one.

    `scale` is what a block and an attention multiply their sums by, `last` the first gain of
    the layers before these sums, `gain` that of queries, keys and values. `convolved` shortcuts
    have a convolution where the resolution changes, even if the number of channels does not.
    `attend_last`: on the way up a level has attention behind its last block only.
    """

    emb_norm: Callable[[int], nn.Module]
    groups: int
    dropout: float
    heads: int
    head_width: int | None
    eps: float = 1e-6
    scale: float = 1.0
    gain: float = 1.0
    last: float = 0.0
    convolved: bool = False
    attend_last: bool = False

    def block(
        self, inputs: int, outputs: int, attend: bool = False, resample: nn.Module | None = None
    ) -> "Block":
        attention = self.attention(outputs) if attend else nn.Identity()
        return Block(inputs, outputs, self, attention, resample)

    def attention(self, channels: int) -> SelfAttention:
        heads = max(1, channels // self.head_width) if self.head_width else self.heads
        start = {"gain": self.gain, "last": self.last}
        return SelfAttention(channels, self.groups, heads, eps=self.eps, scale=self.scale, **start)


class Block(nn.Module):
    """A residual block: norm, swish, conv; norm with `emb`, swish, dropout, conv; then `attend`.

    The second convolution starts at zero, so that the block starts as its own shortcut. `resample`
    changes the resolution before the first convolution, and in the shortcut.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style: BlockStyle,
        attend: nn.Module,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm = group_norm(inputs, style.groups, style.eps)
        self.conv = conv3(inputs, outputs)
        self.emb_norm = style.emb_norm(outputs)
        self.dropout = nn.Dropout(style.dropout)
        self.last = conv3(outputs, outputs, gain=style.last)
        same = inputs == outputs and not (resample and style.convolved)
        self.shortcut = nn.Identity() if same else initialised(nn.Conv2d(inputs, outputs, 1))
        self.resample, self.attend, self.scale = resample, attend, style.scale

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        hidden = F.silu(self.norm(x))
        if self.resample is not None:
            hidden, x = self.resample(hidden), self.resample(x)
        hidden = self.conv(hidden)
        hidden = self.last(self.dropout(F.silu(self.emb_norm(hidden, emb))))
        x = self.shortcut(x) + hidden
        return self.attend(x if self.scale == 1 else x * self.scale)


@dataclass(frozen=True)
class Level:
    """One resolution of a U-Net: its channels, those that come from above and from below."""

    above: int
    channels: int
    below: int
    blocks: int
    attend: bool


class Descent(nn.Module):
    """A level on the way down; every feature map on it is kept for the way up."""

    def __init__(self, level: Level, style: BlockStyle, enter: nn.Module) -> None:
        super().__init__()
        inputs = [level.above] + [level.channels] * (level.blocks - 1)
        self.enter = enter
        self.blocks = nn.ModuleList(style.block(i, level.channels, level.attend) for i in inputs)

    def forward(self, x: Tensor, emb: Tensor | None) -> list[Tensor]:
        maps = [_called(self.enter, x, emb)]
        for block in self.blocks:
            maps.append(block(maps[-1], emb))
        return maps


class Ascent(nn.Module):
    """The same level on the way up; each block takes one kept map from the list's end."""

    def __init__(self, level: Level, style: BlockStyle, leave: nn.Module) -> None:
        super().__init__()
        carried = [level.below] + [level.channels] * level.blocks
        kept = [level.channels] * level.blocks + [level.above]
        inputs = [a + b for a, b in zip(carried, kept, strict=True)]
        first = level.blocks if style.attend_last else 0
        self.blocks = nn.ModuleList(
            style.block(count, level.channels, level.attend and index >= first)
            for index, count in enumerate(inputs)
        )
        self.leave = leave

    def forward(self, x: Tensor, kept: list[Tensor], emb: Tensor | None) -> Tensor:
        for block in self.blocks:
            x = block(torch.cat((x, kept.pop()), dim=1), emb)
        return _called(self.leave, x, emb)


class Middle(nn.Module):
    """The narrowest place: a block with attention and one without."""

    def __init__(self, channels: int, style: BlockStyle) -> None:
        super().__init__()
        self.first = style.block(channels, channels, attend=True)
        self.second = style.block(channels, channels)

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        return self.second(self.first(x, emb), emb)


def _called(module: nn.Module, x: Tensor, emb: Tensor | None) -> Tensor:
    """What leads from level to level, of x: a block needs `emb`, too."""
    return module(x, emb) if isinstance(module, Block) else module(x)


def levels(widths: list[int], blocks: int, attends: list[bool]) -> list[Level]:
    """Levels from the widest image to the narrowest; widths[0] are the stem's channels."""
    below = [*widths[2:], widths[-1]]
    around = zip(widths, widths[1:], below, attends, strict=False)
    return [Level(above, own, under, blocks, attend) for above, own, under, attend in around]
