"""EDM2's magnitude-preserving U-Net (Karras et al. 2024, figure 21)."""

from functools import partial
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from diffgen.network.embedding import known_level
from diffgen.network.layers import Blocks
from diffgen.network.mp_blocks import MPBlock, MPCondition, MPStyle
from diffgen.network.mp_layers import MPLayer, Uncertainty, mp_cat
from diffgen.network.resample import BOX, FilterDown, FilterUp
from diffgen.network.unet import check_unet

Share = Annotated[float, Field(ge=0, le=1)]


class MPUNet(nn.Module):
    """network(x (B, channels, size, size), c_noise (B,), label (B,)) -> (B, out_channels, ...)

    At the defaults it is EDM2-XS, with 125 million parameters on ImageNet. All layers have unit
    weights, which training sets anew in every step, and no bias; every sum keeps the magnitude of
    its terms. The balances are shares of the second term: the label beside the level, what is kept
    from the way down beside the way up, the residual branch and attention beside their inputs.
    `log_uncertainty` (B,) of c_noise (B,) is the learned uncertainty of a noise level, of so many
    Fourier features as `uncertainty` says, 0 for none. No label is the zero vector. UsageError for
    a size that cannot be halved often enough.
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
        multipliers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 3, 4),
        blocks: Blocks = 3,
        attention: tuple[PositiveInt, ...] = (16, 8),
        head_width: PositiveInt = 64,
        dropout: NonNegativeFloat = 0.0,
        label_balance: Share = 0.5,
        concat_balance: Share = 0.5,
        residual_balance: Share = 0.3,
        attention_balance: Share = 0.3,
        clip: PositiveFloat | None = 256.0,
        uncertainty: NonNegativeInt = 128,
    ) -> None:
        super().__init__()
        check_unet(size, width, len(multipliers) - 1, dropout)
        self.channels, self.size, self.num_classes = channels, size, num_classes
        self.out_channels, self.concat_balance = out_channels or channels, concat_balance
        own = [width * m for m in multipliers]
        conditioned = has_noise_input or num_classes > 0
        features = max(own) if conditioned else 0
        self.condition = MPCondition(own[0], features, num_classes, has_noise_input, label_balance)
        balances = residual_balance, attention_balance
        style = MPStyle(features, head_width, dropout, *balances, clip)
        encoder = partial(MPBlock, style=style, encodes=True)
        decoder = partial(MPBlock, style=style, encodes=False)
        attends = [size >> level in attention for level in range(len(own))]
        self.stem = MPLayer(channels + 1, own[0], 3)
        down, up = FilterDown(BOX), FilterUp(BOX)
        self.halvings = nn.ModuleList(encoder(n, n, resample=down) for n in own[:-1])
        self.doublings = nn.ModuleList(decoder(n, n, resample=up) for n in own[1:])
        self.descents, self.ascents = nn.ModuleList(), nn.ModuleList()
        for level, attend in enumerate(attends):
            above, below = own[max(level - 1, 0)], own[min(level + 1, len(own) - 1)]
            inputs = [above] + [own[level]] * (blocks - 1)
            kept = [own[level]] * blocks + [above]
            joined = [a + b for a, b in zip([below] + [own[level]] * blocks, kept, strict=True)]
            encoders = (encoder(n, own[level], attend=attend) for n in inputs)
            self.descents.append(nn.ModuleList(encoders))
            decoders = (decoder(n, own[level], attend=attend) for n in joined)
            self.ascents.append(nn.ModuleList(decoders))
        middle = (decoder(own[-1], own[-1], attend=attend) for attend in (True, False))
        self.middle = nn.ModuleList(middle)
        self.head, self.gain = MPLayer(own[0], self.out_channels, 3), nn.Parameter(torch.zeros(()))
        self.uncertainty = Uncertainty(uncertainty) if uncertainty and has_noise_input else None

    def forward(
        self, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        emb = self.condition(x, c_noise, label)
        x = self.stem(torch.cat((x, torch.ones_like(x[:, :1])), dim=1))
        kept = [x]
        for level, blocks in enumerate(self.descents):
            if level:
                x = self.halvings[level - 1](x, emb)
                kept.append(x)
            for block in blocks.children():
                x = block(x, emb)
                kept.append(x)
        for block in self.middle:
            x = block(x, emb)
        for level in reversed(range(len(self.ascents))):
            for block in self.ascents[level].children():
                x = block(mp_cat(x, kept.pop(), self.concat_balance), emb)
            if level:
                x = self.doublings[level - 1](x, emb)
        return self.head(x, self.gain)

    def log_uncertainty(self, c_noise: Tensor | None) -> Tensor | None:
        """u (B,) of the loss error / exp(u) + u (equation 21); None where it is not learned."""
        return self.uncertainty(known_level(c_noise)) if self.uncertainty else None
