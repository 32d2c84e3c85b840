"""Half and twice the resolution: between the levels of a U-Net, or inside its residual blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffgen.network.layers import conv3, initialised

BOX = (1, 1)


class StridedDown(nn.Module):
    """Half the resolution by a strided convolution, padded below and right as DDPM's."""

    padding = (0, 1, 0, 1)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding))


class CenteredDown(nn.Module):
    """The same, padded on all sides as that of improved DDPM and of diffusers' defaults."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = initialised(nn.Conv2d(channels, channels, 3, stride=2, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class PooledDown(nn.AvgPool2d):
    """Half the resolution by the mean of 2 x 2 pixels; nothing to learn."""

    def __init__(self, channels: int) -> None:
        super().__init__(2)


class Up(nn.Module):
    """Twice the resolution: nearest neighbours, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Filter(nn.Module):
    """A separable filter of unit sum, (B, C, H, W) -> (B, C, H/2, W/2) or (B, C, 2 H, 2 W).

    `taps` are its even number of weights, of which two equal ones make means of 2 x 2 pixels, and
    nearest neighbours on the way up. Nothing to learn.
    """

    kernel: Tensor

    def __init__(self, taps: Sequence[int]) -> None:
        super().__init__()
        line = torch.tensor(taps, dtype=torch.float32, device="cpu") / sum(taps)  # in no file
        self.register_buffer("kernel", torch.outer(line, line)[None, None], persistent=False)
        self.box, self.overlap = tuple(taps) == BOX, (len(taps) - 1) // 2

    def depthwise(self, x: Tensor) -> Tensor:
        """The filter once for each channel of x, of its type."""
        return self.kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)


class FilterDown(Filter):
    """Half the resolution; if not `padded`, of images with `overlap` pixels more on each side."""

    def __init__(self, taps: Sequence[int], padded: bool = True) -> None:
        super().__init__(taps)
        self.padding = self.overlap if padded else 0

    def forward(self, x: Tensor) -> Tensor:
        if self.box:
            return F.avg_pool2d(x, 2)
        kernel = self.depthwise(x)
        return F.conv2d(x, kernel, stride=2, padding=self.padding, groups=x.shape[1])


class FilterUp(Filter):
    """Twice the resolution."""

    def forward(self, x: Tensor) -> Tensor:
        if self.box:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        kernel = 4 * self.depthwise(x)
        return F.conv_transpose2d(x, kernel, stride=2, padding=self.overlap, groups=x.shape[1])
