"""NCSNv2's network (Song and Ermon, Improved Techniques for Training Score-Based Models, 2020)."""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from diffgen.network.embedding import known_label
from diffgen.network.refine import Given, InstanceNormPlus, RefineStyle, Unnormalised
from diffgen.network.refine_body import DEEPER, DEEPEST, STANDARD, RefineBody

DEPTHS = {"standard": STANDARD, "deeper": DEEPER, "deepest": DEEPEST}


class RefineNet(nn.Module):
    """network(x (B, channels, size, size), None, label (B,) or None) -> (B, out_channels, ...).

    A RefineNet with InstanceNorm++ and 5 x 5 max pooling. It never gets the noise level: its
    output, divided by sigma outside, is the score (technique 3). `depth` is the paper's network
    for 32 to 64 pixels (standard), 96 to 128 (deeper) or 256 (deepest), auto that for `size`;
    `width` the channels of the first stage. With classes, a label shifts the gains and offsets of
    every norm.
    """

    def __init__(
        self,
        *,
        channels: PositiveInt,
        size: PositiveInt,
        num_classes: NonNegativeInt = 0,
        out_channels: PositiveInt | None = None,
        width: Annotated[int, Field(ge=2)] = 128,
        depth: Literal["auto", "standard", "deeper", "deepest"] = "auto",
    ) -> None:
        super().__init__()
        self.channels, self.size, self.num_classes = channels, size, num_classes
        self.out_channels = out_channels or channels
        norm = partial(InstanceNormPlus, num_classes=num_classes)
        style = RefineStyle(norm, lambda _: Unnormalised(), nn.MaxPool2d)
        stages = DEPTHS[depth_for(size) if depth == "auto" else depth]
        self.body = RefineBody(channels, size, self.out_channels, width, stages, style)

    def forward(
        self, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        return self.body(x, Given(label=known_label(label, self.num_classes, x)))


def depth_for(size: int) -> str:
    """The paper's depth for images of so many pixels a side."""
    return "standard" if size <= 64 else "deeper" if size <= 128 else "deepest"
