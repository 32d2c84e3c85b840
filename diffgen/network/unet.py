"""DDPM's U-Net with the options of its successors.

Ho et al., Denoising Diffusion Probabilistic Models (2020), appendix B; the options are those of
Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis (2021), section 3.
"""

from collections.abc import Callable
from functools import partial
from itertools import repeat
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from diffgen.errors import UsageError
from diffgen.network.blocks import Ascent, BlockStyle, Descent, Middle, levels
from diffgen.network.embedding import Condition, InputMaps, cosines, sinusoid
from diffgen.network.layers import AddedNorm, Blocks, Head, PlainNorm, ScaledNorm, conv3
from diffgen.network.resample import (
    BOX,
    CenteredDown,
    FilterDown,
    FilterUp,
    PooledDown,
    StridedDown,
    Up,
)

NORMS = {"add": AddedNorm, "scale_shift": ScaledNorm}
DOWNS = {
    "strided": StridedDown,
    "centered": CenteredDown,
    "pooled": PooledDown,
    "plain": PooledDown,
}
FREQUENCIES = {"sine": sinusoid, "cosine": cosines}
MAPS = 16
# ADM's network of 512 pixels begins with a half.
Multipliers = Annotated[tuple[PositiveInt | PositiveFloat, ...], Field(min_length=1)]


class UNet(nn.Module):
    """network(x (B, channels, size, size), c_noise (B,), label (B,)) -> (B, out_channels, ...)

    At the defaults it is DDPM's network for CIFAR-10, with 35,746,307 parameters. There is one
    resolution per entry of `multipliers`, of that many times `width` channels, with `blocks`
    residual blocks (one more on the way up). `attention` names the resolutions that have it, those
    that do not occur being ignored; the middle always has. A head is `head_width` channels wide,
    or there are `heads` of them. `embedding`: the level and the label reach the blocks added to
    their features, as scale and shift of them, or only as maps beside the input image.
    Norms have at least four channels a group unless `exact_groups`, as other programs have them.
    `downsample`: with "residual", blocks halve and double the resolution; with "plain", means and
    nearest neighbours do, and no convolution (ADM's conv_resample=False). `frequencies` tells
    which come first, and whether the last is reached (DDPM) or not (improved DDPM, ADM).
    `augment_dim` numbers of a fourth argument, `augment`, say how an image was augmented.
    `stem` are the channels of the first convolution where they are not `width`: in ADM's code,
    those of the first resolution. `has_noise_input=False` makes a network without a level input.
    An unlabelled image has label None or `num_classes`. UsageError for a size that cannot be
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
        multipliers: Multipliers = (1, 2, 2, 2),
        blocks: Blocks = 2,
        attention: tuple[PositiveInt, ...] = (16,),
        heads: PositiveInt = 1,
        head_width: PositiveInt | None = None,
        dropout: NonNegativeFloat = 0.0,
        groups: PositiveInt = 32,
        exact_groups: bool = False,
        embedding: Literal["add", "scale_shift", "maps"] = "add",
        downsample: Literal["strided", "centered", "pooled", "plain", "residual"] = "strided",
        frequencies: Literal["sine", "cosine"] = "sine",
        norm_eps: PositiveFloat = 1e-6,
        augment_dim: NonNegativeInt = 0,
        stem: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        check_unet(size, width, len(multipliers) - 1, dropout)
        self.channels, self.size, self.num_classes = channels, size, num_classes
        self.out_channels = out_channels or channels
        self.condition = Condition(
            width, num_classes, has_noise_input, FREQUENCIES[frequencies], augment_dim
        )
        conditioned = has_noise_input or num_classes > 0
        self.maps = InputMaps(4 * width, MAPS) if conditioned and embedding == "maps" else None
        norm = emb_norm_of(embedding, conditioned, groups, 4 * width, norm_eps)
        style = BlockStyle(norm, groups, dropout, heads, head_width, norm_eps)
        attends = [size >> level in attention for level in range(len(multipliers))]
        first = stem or width
        ladder = levels([first, *widths_of(width, multipliers)], blocks, attends)
        into = conv3(channels + (MAPS if self.maps else 0), first)
        head = Head(ladder[0].channels, self.out_channels, groups, norm_eps)
        enters = [into, *(down(level.above, downsample, style) for level in ladder[1:])]
        leaves = [head, *(_up(level.channels, downsample, style) for level in ladder[1:])]
        self.descents = nn.ModuleList(map(Descent, ladder, repeat(style), enters))
        self.middle = Middle(ladder[-1].channels, style)
        self.ascents = nn.ModuleList(map(Ascent, ladder, repeat(style), leaves))
        if exact_groups:
            set_groups(self, groups)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor | None = None,
        label: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        emb = self.condition(x, c_noise, label, augment)
        x = self.maps(x, emb) if self.maps else x
        kept: list[Tensor] = []
        for descent in self.descents:
            maps = descent(x, emb)
            kept, x = kept + maps, maps[-1]
        x = self.middle(x, emb)
        for ascent in reversed(self.ascents):
            x = ascent(x, kept, emb)
        return x


def widths_of(width: int, multipliers: Multipliers) -> list[int]:
    """The channels of each resolution; UsageError where they are no whole numbers."""
    if any(width * m % 1 for m in multipliers):
        raise UsageError(
            f"network.multipliers={list(multipliers)} of network.width={width} are no whole "
            "numbers of channels"
        )
    return [int(width * m) for m in multipliers]


def set_groups(network: nn.Module, groups: int) -> None:
    """Give every norm this number of groups, however few channels each then has."""
    for norm in network.modules():
        if isinstance(norm, nn.GroupNorm):
            if norm.num_channels % groups:
                raise UsageError(
                    f"network.groups={groups} does not divide {norm.num_channels} channels"
                )
            norm.num_groups = groups


def down(channels: int, downsample: str, style: BlockStyle) -> nn.Module:
    if downsample == "residual":
        return style.block(channels, channels, resample=FilterDown(BOX))
    return DOWNS[downsample](channels)


def _up(channels: int, downsample: str, style: BlockStyle) -> nn.Module:
    if downsample == "residual":
        return style.block(channels, channels, resample=FilterUp(BOX))
    return FilterUp(BOX) if downsample == "plain" else Up(channels)


def emb_norm_of(
    embedding: str, conditioned: bool, groups: int, features: int, eps: float
) -> Callable[[int], nn.Module]:
    if not conditioned or embedding not in NORMS:
        return partial(PlainNorm, groups=groups, eps=eps)
    return partial(NORMS[embedding], groups=groups, features=features, eps=eps)


def check_unet(size: int, width: int, halvings: int, dropout: float) -> None:
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
