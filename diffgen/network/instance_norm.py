"""InstanceNorm++ (Song and Ermon 2019, appendix A), the norm of the noise-conditional nets."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffgen.network.layers import GroupNorm


class Given(NamedTuple):
    """What conditions the norms: rows of their tables, each (B,) int64, or None."""

    level: Tensor | None = None
    label: Tensor | None = None


class InstanceNormPlus(nn.Module):
    """gamma ((x - mu) / s + alpha (mu - m) / v) + beta, (B, C, H, W), C at least 2.

    mu and s are the mean and deviation of each channel over the pixels, m and v those of the mu
    over the channels. The second term keeps what an instance norm removes: how the channels'
    means differ, without which no score could tell an image's overall colour. gamma multiplies
    both terms, as in the authors' code. `table` (levels, 3, C) holds gamma, alpha, beta, one row
    for each noise level or one for all; `labels` adds to it, starting at zero.
    """

    def __init__(self, channels: int, levels: int = 1, num_classes: int = 0) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(levels, 3, channels))
        nn.init.normal_(self.table.data[:, :2], 1.0, 0.02)
        nn.init.zeros_(self.table.data[:, 2])
        # One channel a group is the instance norm, by a kernel that takes a third of its time.
        self.plain = GroupNorm(channels, channels, eps=1e-5, affine=False)
        rows = torch.zeros(num_classes + 1, 3, channels)
        self.labels = nn.Parameter(rows) if num_classes else None

    def forward(self, x: Tensor, given: Given) -> Tensor:
        gamma, alpha, beta = self._rows(given)[..., None, None].unbind(1)
        # Sums over pixels are not left to bfloat16, whatever the convolutions run in.
        wide = torch.promote_types(x.dtype, torch.float32)
        mean = x.mean(dim=(2, 3), keepdim=True, dtype=wide)
        spread, middle = torch.var_mean(mean, dim=1, keepdim=True)
        offset = alpha * (mean - middle) * (spread + 1e-5).rsqrt()
        return (self.plain(x) * gamma + (gamma * offset + beta)).to(x.dtype)

    def _rows(self, given: Given) -> Tensor:
        """(B or 1, 3, C)"""
        rows = self.table if given.level is None else self.table[given.level]
        return rows if self.labels is None else rows + self.labels[given.label]


class Unnormalised(nn.Module):
    """Stands where a network has no norm: the refinement of NCSNv2."""

    def forward(self, x: Tensor, given: Given) -> Tensor:
        return x
