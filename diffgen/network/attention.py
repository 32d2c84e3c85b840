"""Self-attention over the pixels of a feature map."""

from torch import Tensor, nn
from torch.nn import functional as F

from diffgen.errors import UsageError
from diffgen.network.layers import group_norm, initialised


class SelfAttention(nn.Module):
    """scale (x + projection(attention(norm(x)))), (B, C, H, W): every pixel looks at every other.

    The projection starts at zero, so that the layer starts as the identity (DDPM, appendix B), or
    has the gain `last`; queries, keys and values have the gain `gain`.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        heads: int = 1,
        *,
        eps: float = 1e-6,
        scale: float = 1.0,
        gain: float = 1.0,
        last: float = 0.0,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise UsageError(f"{channels} channels do not divide into {heads} attention heads")
        self.heads, self.scale = heads, scale
        self.norm = group_norm(channels, groups, eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = initialised(nn.Linear(channels, channels), gain=last)
        for weight in self.qkv.weight.data.chunk(3):
            nn.init.xavier_uniform_(weight, gain)
        nn.init.zeros_(self.qkv.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        # In channels_last memory this transposition and the last one are views, not copies.
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        heads = self.qkv(pixels).view(batch, height * width, 3, self.heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        mixed = mixed.transpose(1, 2).reshape(batch, height * width, channels)
        x = x + self.out(mixed).transpose(1, 2).reshape(batch, channels, height, width)
        return x if self.scale == 1 else x * self.scale
