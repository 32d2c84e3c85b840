"""Layers that keep the magnitude of activations, weights and updates as they are.

Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models (2024, EDM2),
appendix B; equations are those of the paper.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-4


def normalise(x: Tensor, dims: Sequence[int]) -> Tensor:
    """x with a root mean square of 1 over `dims` (equation 30)."""
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float32)
    return x / (EPS + norm * math.sqrt(norm.numel() / x.numel())).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """Swish of unit variance on normal numbers (equation 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, share: float) -> Tensor:
    """a and b mixed, b by `share`, of the magnitude of independent a and b (equation 88)."""
    return torch.lerp(a, b.to(a.dtype), share) / math.hypot(1 - share, share)


def mp_cat(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Channels of a and b, which weigh as if there were as many of both (equation 103)."""
    first, second = a.shape[1], b.shape[1]
    scale = math.sqrt((first + second) / ((1 - share) ** 2 + share**2))
    ours, theirs = scale / math.sqrt(first) * (1 - share), scale / math.sqrt(second) * share
    return torch.cat((ours * a, theirs * b), dim=1)


class MPFourier(nn.Module):
    """(B, features): cosines of c_noise (B,) at random frequencies and phases (equation 75)."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(features))
        self.register_buffer("phases", 2 * math.pi * torch.rand(features))

    def forward(self, c_noise: Tensor) -> Tensor:
        wide = torch.promote_types(c_noise.dtype, torch.float32)
        angles = c_noise.to(wide)[:, None] * self.frequencies + self.phases
        return angles.cos() * math.sqrt(2)


class MPLayer(nn.Module):
    """A convolution of `kernel` pixels, or with kernel 0 a linear layer, of unit weights.

    Each output's weights are normalised where they are used (equation 47), and when training they
    are set to their normalised values, too (equation 66). There is no bias.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 0) -> None:
        super().__init__()
        size = (kernel, kernel) if kernel else ()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *size))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        dims = list(range(1, self.weight.ndim))
        if self.training:
            with torch.no_grad():
                self.weight.copy_(normalise(self.weight, dims))
        weight = normalise(self.weight, dims) * (gain / math.sqrt(self.weight[0].numel()))
        if weight.ndim == 2:
            return F.linear(x, weight.to(x.dtype))
        return F.conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] // 2)


class MPAttention(nn.Module):
    """Pixels mixed with their attention by `share`; queries, keys and values are normalised."""

    def __init__(self, channels: int, head_width: int, share: float) -> None:
        super().__init__()
        self.heads, self.share = max(1, channels // head_width), share
        self.qkv = MPLayer(channels, 3 * channels, 1)
        self.out = MPLayer(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.shape[2] * x.shape[3]
        heads = self.qkv(x).reshape(x.shape[0], self.heads, -1, 3, pixels)
        query, key, value = normalise(heads, [2]).permute(3, 0, 1, 4, 2)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return mp_sum(x, self.out(mixed.transpose(2, 3).reshape(x.shape)), self.share)


class Uncertainty(nn.Module):
    """The logarithm of the error that is to be expected at a noise level, (B,)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.fourier, self.linear = MPFourier(features), MPLayer(features, 1)

    def forward(self, c_noise: Tensor) -> Tensor:
        return self.linear(self.fourier(c_noise))[:, 0]
