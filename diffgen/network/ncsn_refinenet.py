"""NCSN's network (Song and Ermon, Generative Modeling by Estimating Gradients, 2019)."""

from functools import partial
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from diffgen.errors import UsageError
from diffgen.network.embedding import known_label
from diffgen.network.refine import Given, InstanceNormPlus, RefineStyle
from diffgen.network.refine_body import STANDARD, RefineBody


class NCSNRefineNet(nn.Module):
    """network(x (B, channels, size, size), level (B,), label (B,)) -> (B, out_channels, ...).

    A RefineNet whose norms, one before every convolution, have gains and offsets of their own at
    each of `levels` noise levels, with 5 x 5 average pooling. It takes diffgen's level, 0 for the
    least noise; its tables count as the paper does, 0 for the most. It has one halving, so every
    size of at least 4 will do; the asymmetric padding that the authors' code names for 28 pixels
    sits on a branch that its dilated stages never take, and changes nothing. With classes, a
    label shifts the gains and offsets.
    """

    def __init__(
        self,
        *,
        channels: PositiveInt,
        size: PositiveInt,
        levels: PositiveInt,
        num_classes: NonNegativeInt = 0,
        out_channels: PositiveInt | None = None,
        width: Annotated[int, Field(ge=2)] = 128,
    ) -> None:
        super().__init__()
        self.channels, self.size, self.num_classes = channels, size, num_classes
        self.out_channels, self.levels = out_channels or channels, levels
        norm = partial(InstanceNormPlus, levels=levels, num_classes=num_classes)
        style = RefineStyle(norm, norm, nn.AvgPool2d)
        self.body = RefineBody(channels, size, self.out_channels, width, STANDARD, style)

    def forward(self, x: Tensor, c_noise: Tensor | None, label: Tensor | None = None) -> Tensor:
        if c_noise is None:
            raise UsageError(
                "this network needs the noise level (c_noise): use model.noise_input=index"
            )
        row = self.levels - 1 - c_noise.round().long()
        return self.body(x, Given(row, known_label(label, self.num_classes, x)))
