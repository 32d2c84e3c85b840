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


class Block(nn.Module):
    """A residual block: norm, swish, conv; norm with `emb`, swish, dropout, conv; then `attend`.

    The second convolution starts at zero, so that the block starts as its own shortcut.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        groups: int,
        dropout: float,
        emb_norm: Callable[[int], nn.Module],
        attend: nn.Module,
    ) -> None:
        super().__init__()
        self.norm = group_norm(inputs, groups)
        self.conv = conv3(inputs, outputs)
        self.emb_norm = emb_norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.last = conv3(outputs, outputs, gain=0.0)
        same = inputs == outputs
        self.shortcut = nn.Identity() if same else initialised(nn.Conv2d(inputs, outputs, 1))
        self.attend = attend

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        hidden = self.conv(F.silu(self.norm(x)))
        hidden = self.last(self.dropout(F.silu(self.emb_norm(hidden, emb))))
        return self.attend(self.shortcut(x) + hidden)


@dataclass(frozen=True)
class BlockStyle:
    """What all residual blocks of a network share, and how to make one."""

    emb_norm: Callable[[int], nn.Module]
    groups: int
    dropout: float
    heads: int
    head_width: int | None

    def block(self, inputs: int, outputs: int, attend: bool = False) -> Block:
        return Block(
            inputs,
            outputs,
            groups=self.groups,
            dropout=self.dropout,
            emb_norm=self.emb_norm,
            attend=self.attention(outputs) if attend else nn.Identity(),
        )

    def attention(self, channels: int) -> SelfAttention:
        heads = max(1, channels // self.head_width) if self.head_width else self.heads
        return SelfAttention(channels, self.groups, heads)


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
        maps = [self.enter(x)]
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
        self.blocks = nn.ModuleList(style.block(i, level.channels, level.attend) for i in inputs)
        self.leave = leave

    def forward(self, x: Tensor, kept: list[Tensor], emb: Tensor | None) -> Tensor:
        for block in self.blocks:
            x = block(torch.cat((x, kept.pop()), dim=1), emb)
        return self.leave(x)


class Middle(nn.Module):
    """The narrowest place: a block with attention and one without."""

    def __init__(self, channels: int, style: BlockStyle) -> None:
        super().__init__()
        self.first = style.block(channels, channels, attend=True)
        self.second = style.block(channels, channels)

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        return self.second(self.first(x, emb), emb)
