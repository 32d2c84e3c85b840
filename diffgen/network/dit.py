"""The diffusion transformer: an image as patches, all of which look at one another.

Peebles and Xie, Scalable Diffusion Models with Transformers (2023), section 3, the block with
adaLN-Zero; Ma et al., SiT (2024), trained the same network to follow a flow.
"""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from diffgen.errors import UsageError
from diffgen.network.layers import Blocks
from diffgen.network.tokens import Patches, TokenBlock, TokenCondition, TokenHead, positions

PLACES = 2**26  # numbers of all patches of an image


class DiT(nn.Module):
    """network(x (B, channels, size, size), c_noise (B,), label (B,)) -> (B, out_channels, ...)

    The image is cut into squares of `patch` pixels, each a vector of `width` numbers with its
    place added as sines and cosines; `depth` blocks of attention in `heads` heads and a perceptron
    `mlp` times as wide follow. The level and the label scale, shift and gate every block, the
    gates being zero at first. An unlabelled image has label None or `num_classes`. UsageError for
    a size that `patch` does not divide.
    """

    def __init__(
        self,
        *,
        channels: PositiveInt,
        size: PositiveInt,
        num_classes: NonNegativeInt = 0,
        out_channels: PositiveInt | None = None,
        has_noise_input: bool = True,
        patch: PositiveInt = 2,
        width: PositiveInt = 384,
        depth: Blocks = 12,
        heads: PositiveInt = 6,
        mlp: Annotated[float, Field(gt=0)] = 4.0,
    ) -> None:
        super().__init__()
        _check(size, patch, width, heads)
        self.channels, self.size, self.num_classes = channels, size, num_classes
        self.out_channels = out_channels or channels
        self.patches = Patches(channels, width, patch)
        self.register_buffer("positions", positions(size // patch, width), persistent=False)
        self.condition = TokenCondition(width, num_classes, has_noise_input)
        self.blocks = nn.ModuleList(
            TokenBlock(width, heads, round(width * mlp)) for _ in range(depth)
        )
        self.head = TokenHead(width, self.out_channels, patch)

    def forward(
        self, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        emb = self.condition(x, c_noise, label)
        tokens = self.patches(x) + self.positions
        for block in self.blocks:
            tokens = block(tokens, emb)
        return self.head(tokens, emb)


def _check(size: int, patch: int, width: int, heads: int) -> None:
    if (size // patch) ** 2 * width > PLACES:
        raise UsageError(
            f"images of {size} pixels make {(size // patch) ** 2:,} patches of {width} numbers; "
            f"{PLACES:,} numbers are the most: take a larger network.patch"
        )
    if size % patch:
        sizes = [n for n in range(1, size + 1) if size % n == 0]
        near = ", ".join(str(n) for n in sorted(sizes, key=lambda n: abs(n - patch))[:2])
        raise UsageError(
            f"images of {size} pixels do not divide into patches of {patch}: take a network.patch "
            f"that divides {size} ({near})"
        )
    if width % heads:
        raise UsageError(f"network.width={width} does not divide into network.heads={heads}")
    if width % 4:
        raise UsageError(f"network.width={width} must be a multiple of 4")
