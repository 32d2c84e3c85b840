"""Parts of a transformer of image patches: tokens (B, N, width), what conditions them, blocks.

Peebles and Xie, Scalable Diffusion Models with Transformers (2023), section 3.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffgen.network.embedding import LabelEmbedding, cosines, known_label, known_level
from diffgen.network.layers import initialised

FREQUENCIES = 256  # numbers that tell the noise level


class Patches(nn.Conv2d):
    """A vector for each square of the image, row by row, (B, N, width)."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__(channels, width, patch, stride=patch)
        nn.init.xavier_uniform_(self.weight.view(width, -1))
        nn.init.zeros_(self.bias) if self.bias is not None else None

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).flatten(2).transpose(1, 2)


class TokenCondition(nn.Module):
    """silu(perceptron(cosines and sines of c_noise) + the label's vector), (B, width)."""

    def __init__(self, width: int, num_classes: int, has_noise_input: bool) -> None:
        super().__init__()
        self.width, self.num_classes = width, num_classes
        layers = [nn.Linear(a, b) for a, b in pairwise((FREQUENCIES, width, width))]
        self.level = nn.Sequential(layers[0], nn.SiLU(), layers[1]) if has_noise_input else None
        self.label = LabelEmbedding(num_classes, width) if num_classes else None
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        if self.label:
            nn.init.normal_(self.label.table.weight, std=0.02)

    def forward(self, x: Tensor, c_noise: Tensor | None, label: Tensor | None) -> Tensor:
        """Zeros when there is neither a noise level nor classes."""
        label = known_label(label, self.num_classes, x)
        emb = x.new_zeros(x.shape[0], self.width)
        if self.level is not None:
            emb = emb + self.level(cosines(known_level(c_noise), FREQUENCIES))
        if self.label is not None:
            emb = emb + self.label(label, x)
        return F.silu(emb)


class TokenBlock(nn.Module):
    """tokens + gate attention(modulated tokens), then the same with a perceptron (figure 3)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = initialised(nn.Linear(width, 6 * width), gain=0.0)
        self.qkv = initialised(nn.Linear(width, 3 * width))
        self.out = initialised(nn.Linear(width, width))
        wide, narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.mlp = nn.Sequential(initialised(wide), nn.GELU("tanh"), initialised(narrow))

    def forward(self, tokens: Tensor, emb: Tensor) -> Tensor:
        shift, scale, gate, *rest = self.modulation(emb)[:, None].chunk(6, dim=-1)
        tokens = tokens + gate * self._attention(self.norm(tokens) * (1 + scale) + shift)
        shift, scale, gate = rest
        return tokens + gate * self.mlp(self.norm(tokens) * (1 + scale) + shift)

    def _attention(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        heads = self.qkv(tokens).view(batch, count, 3, self.heads, -1)
        mixed = F.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4))
        return self.out(mixed.transpose(1, 2).reshape(batch, count, width))


class TokenHead(nn.Module):
    """Modulated tokens to the pixels of their patches, (B, channels, H, W); zero at first."""

    def __init__(self, width: int, channels: int, patch: int) -> None:
        super().__init__()
        self.patch, self.channels = patch, channels
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = initialised(nn.Linear(width, 2 * width), gain=0.0)
        self.pixels = initialised(nn.Linear(width, patch**2 * channels), gain=0.0)

    def forward(self, tokens: Tensor, emb: Tensor) -> Tensor:
        shift, scale = self.modulation(emb)[:, None].chunk(2, dim=-1)
        pixels = self.pixels(self.norm(tokens) * (1 + scale) + shift)
        side = round(tokens.shape[1] ** 0.5)
        grid = pixels.view(-1, side, side, self.patch, self.patch, self.channels)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(
            -1, self.channels, side * self.patch, side * self.patch
        )


def positions(side: int, width: int) -> Tensor:
    """(side^2, width): the column, then the row, of each patch as sines and cosines.

    On the CPU, since a checkpoint's network, made on the meta device, finds them in no file.
    """
    place = torch.arange(side, dtype=torch.float64, device="cpu")
    exponents = torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4)
    angles = place[:, None] * 10_000.0**-exponents
    waves = torch.cat((angles.sin(), angles.cos()), dim=1)
    column = waves.expand(side, side, -1)
    return torch.cat((column, column.transpose(0, 1)), dim=2).flatten(0, 1).float()
