"""DDPM's U-Net with the options of its successors.

Ho et al., Denoising Diffusion Probabilistic Models (2020), appendix B; the options are those of
Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis (2021), section 3.
"""

from collections.abc import Callable
from functools import partial
from itertools import repeat
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from diffgen.errors import UsageError
from diffgen.network.blocks import Ascent, BlockStyle, Descent, Level, Middle
from diffgen.network.embedding import Condition, InputMaps
from diffgen.network.layers import (
    AddedNorm,
    Head,
    PlainNorm,
    PooledDown,
    ScaledNorm,
    StridedDown,
    Up,
    conv3,
)

NORMS = {"add": AddedNorm, "scale_shift": ScaledNorm}
DOWNS = {"strided": StridedDown, "pooled": PooledDown}
MAPS = 16


class UNet(nn.Module):
    """network(x (B, channels, size, size), c_noise (B,), label (B,)) -> (B, out_channels, ...)

    At the defaults it is DDPM's network for CIFAR-10, with 35,746,307 parameters. There is one
    resolution per entry of `multipliers`, of that many times `width` channels, with `blocks`
    residual blocks (one more on the way up). `attention` names the resolutions that have it, those
    that do not occur being ignored; the middle always has. A head is `head_width` channels wide,
    or there are `heads` of them. `embedding`: the level and the label reach the blocks added to
    their features, as scale and shift of them, or only as maps beside the input image.
    `has_noise_input=False` makes a network without a level input. An unlabelled image has label
    None or `num_classes`. UsageError for a size that cannot be halved often enough.
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
        multipliers: tuple[PositiveInt, ...] = (1, 2, 2, 2),
        blocks: PositiveInt = 2,
        attention: tuple[PositiveInt, ...] = (16,),
        heads: PositiveInt = 1,
        head_width: PositiveInt | None = None,
        dropout: NonNegativeFloat = 0.0,
        groups: PositiveInt = 32,
        embedding: Literal["add", "scale_shift", "maps"] = "add",
        downsample: Literal["strided", "pooled"] = "strided",
    ) -> None:
        super().__init__()
        _check(size, width, len(multipliers) - 1, dropout)
        self.channels, self.size, self.num_classes = channels, size, num_classes
        self.out_channels = out_channels or channels
        self.condition = Condition(width, num_classes, has_noise_input)
        conditioned = has_noise_input or num_classes > 0
        self.maps = InputMaps(4 * width, MAPS) if conditioned and embedding == "maps" else None
        norm = _emb_norm(embedding, conditioned, groups, 4 * width)
        style = BlockStyle(norm, groups, dropout, heads, head_width)
        attends = [size >> level in attention for level in range(len(multipliers))]
        levels = _levels([width * m for m in (1, *multipliers)], blocks, attends)
        stem = conv3(channels + (MAPS if self.maps else 0), width)
        head = Head(levels[0].channels, self.out_channels, groups)
        enters = [stem, *(DOWNS[downsample](level.above) for level in levels[1:])]
        leaves = [head, *(Up(level.channels) for level in levels[1:])]
        self.descents = nn.ModuleList(map(Descent, levels, repeat(style), enters))
        self.middle = Middle(levels[-1].channels, style)
        self.ascents = nn.ModuleList(map(Ascent, levels, repeat(style), leaves))

    def forward(
        self, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        emb = self.condition(x, c_noise, label)
        x = self.maps(x, emb) if self.maps else x
        kept: list[Tensor] = []
        for descent in self.descents:
            maps = descent(x, emb)
            kept, x = kept + maps, maps[-1]
        x = self.middle(x, emb)
        for ascent in reversed(self.ascents):
            x = ascent(x, kept, emb)
        return x


def _levels(widths: list[int], blocks: int, attends: list[bool]) -> list[Level]:
    """Levels from the widest image to the narrowest; widths[0] are the stem's channels."""
    below = [*widths[2:], widths[-1]]
    around = zip(widths, widths[1:], below, attends, strict=False)
    return [Level(above, own, under, blocks, attend) for above, own, under, attend in around]


def _emb_norm(
    embedding: str, conditioned: bool, groups: int, features: int
) -> Callable[[int], nn.Module]:
    if not conditioned or embedding not in NORMS:
        return partial(PlainNorm, groups=groups)
    return partial(NORMS[embedding], groups=groups, features=features)


def _check(size: int, width: int, halvings: int, dropout: float) -> None:
    step = 2**halvings
    if size % step:
        near = " or ".join(str(n) for n in (size // step * step, -(-size // step) * step) if n)
        raise UsageError(
            f"images of {size} pixels cannot be halved {halvings} times: use a size that {step} "
            f"divides ({near}), or fewer network.multipliers"
        )
    if width % 2 or width < 4:
        raise UsageError(f"network.width={width} must be even and at least 4")
    if dropout >= 1:
        raise UsageError(f"network.dropout={dropout} must be below 1")
