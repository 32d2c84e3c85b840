"""The smallest parts of a U-Net: initialised layers, group norms, the head.

Ho et al., Denoising Diffusion Probabilistic Models (2020), appendix B; scale and shift from
Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis (2021), section 3.
"""

from typing import Annotated, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

# So many that no network has more: a recipe in a file is made only up to here.
Blocks = Annotated[int, Field(ge=1, le=128)]
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def initialised(layer: Layer, gain: float = 1.0) -> Layer:
    """The layer with DDPM's start: variance 1 / fan average, uniform, no bias; gain 0 is zero."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def conv3(inputs: int, outputs: int, gain: float = 1.0, stride: int = 1) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps the resolution, or with stride 2 expects its own padding."""
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1 if stride == 1 else 0)
    return initialised(layer, gain)


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm in ordinary memory on the CPU, whatever the memory format of x.

    In channels_last its kernel there takes six times as long as a copy and the ordinary one
    (torch 2.14, bfloat16); compiled code makes its own kernel.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type == "cpu" and not torch.compiler.is_compiling():
            input = input.contiguous()
        return super().forward(input)


def group_norm(channels: int, groups: int, eps: float = 1e-6) -> nn.GroupNorm:
    """GroupNorm of at most `groups` groups of at least four channels each.

    The papers' 32 groups stay 32 from 128 channels on. Below, one-channel groups would be an
    instance norm, which hides every channel's mean from the layers behind it.
    """
    most = max(1, min(groups, channels // 4))
    fitting = next(g for g in range(most, 0, -1) if channels % g == 0)
    return GroupNorm(fitting, channels, eps=eps)


class PlainNorm(nn.Module):
    """A group norm that ignores the embedding."""

    def __init__(self, channels: int, groups: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups, eps)

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        return self.norm(x)


class AddedNorm(nn.Module):
    """A group norm of x plus a projection of the embedding `emb` (B, features) to its channels."""

    def __init__(self, channels: int, groups: int, features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.emb_proj = initialised(nn.Linear(features, channels))
        self.norm = group_norm(channels, groups, eps)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.norm(x + self.emb_proj(emb)[:, :, None, None])


class ScaledNorm(nn.Module):
    """A group norm scaled and shifted by a projection of the embedding `emb` (B, features)."""

    def __init__(self, channels: int, groups: int, features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.emb_proj = initialised(nn.Linear(features, 2 * channels))
        self.norm = group_norm(channels, groups, eps)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.emb_proj(emb)[:, :, None, None].chunk(2, dim=1)
        return self.norm(x) * (1 + scale) + shift


class Head(nn.Sequential):
    """Norm, swish and a convolution to the image that starts at zero, or near it by `gain`."""

    def __init__(
        self, inputs: int, outputs: int, groups: int, eps: float = 1e-6, gain: float = 0.0
    ) -> None:
        norm = group_norm(inputs, groups, eps)
        super().__init__(norm, nn.SiLU(), conv3(inputs, outputs, gain=gain))
