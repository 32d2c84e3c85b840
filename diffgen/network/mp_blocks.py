"""Residual blocks of EDM2's U-Net and what conditions them (Karras et al. 2024, figure 21)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffgen.network.embedding import known_label, known_level
from diffgen.network.mp_layers import MPAttention, MPFourier, MPLayer, mp_silu, mp_sum, normalise


class MPCondition(nn.Module):
    """(B, features): the level's Fourier features and the label, mixed by `balance`, activated."""

    def __init__(
        self, width: int, features: int, num_classes: int, has_noise_input: bool, balance: float
    ) -> None:
        super().__init__()
        self.num_classes, self.balance = num_classes, balance
        self.fourier = MPFourier(width) if has_noise_input else None
        self.level = MPLayer(width, features) if has_noise_input else None
        self.label = MPLayer(num_classes, features) if num_classes else None

    def forward(self, x: Tensor, c_noise: Tensor | None, label: Tensor | None) -> Tensor | None:
        """None when there is neither a noise level nor classes."""
        label = known_label(label, self.num_classes, x)
        emb = None
        if self.level is not None and self.fourier is not None:
            emb = self.level(self.fourier(known_level(c_noise)))
        if self.label is not None and label is not None:
            rows = F.one_hot(label, self.num_classes + 1)[:, :-1].to(x.dtype)
            named = self.label(rows * math.sqrt(self.num_classes))
            emb = named if emb is None else mp_sum(emb, named, self.balance)
        return None if emb is None else mp_silu(emb)


@dataclass(frozen=True)
class MPStyle:
    """What all blocks of a network share: features of `emb` (0: none), and how terms mix."""

    features: int
    head_width: int
    dropout: float
    residual_balance: float
    attention_balance: float
    clip: float | None


class MPBlock(nn.Module):
    """swish, conv, times 1 + `emb`, swish, dropout, conv; mixed with the input; attention; clip.

    One that `encodes` first projects its input and gives each pixel unit magnitude.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style: MPStyle,
        encodes: bool,
        attend: bool = False,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.resample, self.encodes = resample, encodes
        self.balance, self.clip = style.residual_balance, style.clip
        self.shortcut = MPLayer(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.conv = MPLayer(outputs if encodes else inputs, outputs, 3)
        self.emb_proj = MPLayer(style.features, outputs) if style.features else None
        self.emb_gain = nn.Parameter(torch.zeros(())) if style.features else 0.0
        self.dropout = nn.Dropout(style.dropout)
        self.last = MPLayer(outputs, outputs, 3)
        attention = (outputs, style.head_width, style.attention_balance)
        self.attend = MPAttention(*attention) if attend else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        x = x if self.resample is None else self.resample(x)
        if self.encodes:
            x = normalise(self.shortcut(x), [1])
        hidden = self.conv(mp_silu(x))
        if self.emb_proj is not None:
            scale = self.emb_proj(emb, self.emb_gain) + 1
            hidden = hidden * scale[:, :, None, None].to(hidden.dtype)
        hidden = self.last(self.dropout(mp_silu(hidden)))
        x = x if self.encodes else self.shortcut(x)
        x = self.attend(mp_sum(x, hidden, self.balance))
        return x if self.clip is None else x.clamp(-self.clip, self.clip)
