"""Features of DINOv2, which FD-DINOv2 is measured on.

Oquab et al., DINOv2: Learning Robust Visual Features without Supervision (2023); Stein et al.,
Exposing Flaws of Generative Model Evaluation Metrics (2023), for the distance. The network stands
here under its authors' names of weights, so that their file is data and their hub's code never
runs.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffgen.evaluation.features import Extractor, resized
from diffgen.evaluation.weights import Published, filled, state_in
from diffgen.files import sha256

URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{0}14/dinov2_vit{0}14_pretrain.pth"
SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "g": (1536, 40, 24)}
IMAGE, PATCH, GRID = 224, 14, 37  # pixels of an image and a patch; patches it was trained on


class Dinov2Extractor(Extractor):
    """The class token (B, dim) of DINOv2's ViT-S, B, L or g with patches of 14 pixels.

    Images are resized to 224 (bicubic, antialiased) and normalised as ImageNet's, as in EDM2's
    FD-DINOv2. `weights` is the authors' file; null downloads it once.
    """

    batch = 32

    def __init__(
        self,
        *,
        size: Literal["s", "b", "l", "g"] = "b",
        weights: str | None = None,
        device: str = "cpu",
    ) -> None:
        url = URL.format(size)
        path, digest = Published("dinov2", url, url.rpartition("/")[2]).located(weights)
        self.dim, depth, heads = SIZES[size]
        with torch.device("meta"):
            network = Vit(self.dim, depth, heads, gated=size == "g")
        network.to_empty(device="cpu")
        filled(network, state_in(path), path, f"DINOv2 ViT-{size}/14")
        self.module = network.requires_grad_(False).eval().to(device)
        self.name = f"dinov2-vit-{size}-14"
        self.hash = sha256([digest, "bicubic 224"])[:12]

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        return self.module(resized(images, IMAGE, "bicubic")), None


class Vit(nn.Module):
    """The class token (B, dim) of images (B, 3, 224, 224), after `depth` blocks and a norm."""

    def __init__(self, dim: int, depth: int, heads: int, gated: bool = False) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID**2, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # of its training only
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, PATCH, PATCH)})
        self.blocks = nn.ModuleList(_Block(dim, heads, gated) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), patches), 1) + self._positions()
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]

    def _positions(self) -> Tensor:
        """Positions for 16 x 16 patches out of those of 37 x 37, as its authors' code has them.

        It adds 0.1 to the size that is wanted, and interpolates by that ratio.
        """
        grid = self.pos_embed[:, 1:].unflatten(1, (GRID, GRID)).movedim(-1, 1)
        scale = (IMAGE // PATCH + 0.1) / GRID
        grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat((self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)), 1)


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, gated: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = _Attention(dim, heads), (_Gated if gated else _Mlp)(dim)
        self.ls1, self.ls2 = _Scale(dim), _Scale(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Gated(nn.Module):
    """SwiGLU with two thirds of the width, in eights."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = (4 * dim * 2 // 3 + 7) // 8 * 8
        self.w12, self.w3 = nn.Linear(dim, 2 * width), nn.Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(gate) * value)


class _Scale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma
