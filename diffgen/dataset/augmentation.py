"""Augmentation that does not leak into samples: the network is told what was done to an image.

Karras et al., Training Generative Adversarial Networks with Limited Data (2020), as EDM has it for
diffusion models (Karras et al. 2022, appendix F.2): mirror and turn over, scale, rotate, stretch
and move, each by chance, and nine numbers for the network, all 0 where nothing was done, which is
what samples are asked for.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from diffgen.errors import UsageError

AUGMENT_DIM = 9  # numbers about each image
DRAWS = 14  # uniform numbers for each image

SCALE = STRETCH = 0.2  # standard deviation of log2
SHIFT = 0.125  # standard deviation, of the width
# The symlet of 12 taps, for sampling at twice the resolution and back.
SYMLET = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
REACH = len(SYMLET) // 4


def check_augment_dim(probability: float | None, numbers: int | None) -> None:
    """UsageError where images are augmented and the network takes not AUGMENT_DIM labels."""
    if probability and numbers != AUGMENT_DIM:
        raise UsageError(
            f"augment={probability:g}: the network must be told of it, or samples will look "
            f"augmented, too: give network.augment_dim={AUGMENT_DIM} (of unet and song_unet)"
        )


@dataclass(frozen=True)
class Changes:
    """What is done to each of B images: mirrored, turned over (B,), and `inverse` (B, 3, 3).

    `inverse` leads from a pixel of the result to one of the image, both in pixels from the middle.
    `augment_labels` (B, 9) is what the network gets.
    """

    mirrored: Tensor
    turned: Tensor
    inverse: Tensor
    augment_labels: Tensor


def drawn(u: Tensor, probability: float, width: int) -> Changes:
    """Changes from uniform numbers u (B, 14) in [0, 1), float64, of images `width` pixels wide.

    Half of the images are mirrored; each other change is made with `probability`.
    """
    (mirror, turn, turns, *parts) = u.T
    scales, scaled, rotates, rotated, stretches, stretched, aslant, axis, moves, *moved = parts
    normal = torch.special.ndtri
    p = probability
    flips = (mirror < 0.5, (turn < 0.5) & (turns < p))
    scale = torch.where(scales < p, normal(_inside(scaled)), 0.0)
    angle = torch.where(rotates < p, (2 * rotated - 1) * math.pi, 0.0)
    stretch = torch.where(stretches < p, normal(_inside(stretched)), 0.0)
    slant = torch.where(aslant < 0.5, (2 * axis - 1) * math.pi, 0.0)
    x, y = (torch.where(moves < p, normal(_inside(each)), 0.0) for each in moved)
    size, longer = (SCALE * scale).exp2(), (STRETCH * stretch).exp2()
    stretching = _rotation(-slant) @ _scaling(1 / longer, longer) @ _rotation(slant)
    inverse = (
        _scaling(1 / size, 1 / size)
        @ _rotation(angle)
        @ stretching
        @ _translation(-SHIFT * width * x, -SHIFT * width * y)
    )
    numbers = (
        *(flips[0].double(), flips[1].double(), scale, angle.cos() - 1, angle.sin()),
        *(stretch * slant.cos(), stretch * slant.sin(), x, y),
    )
    return Changes(*flips, inverse, torch.stack(numbers, 1))


def changed(x: Tensor, changes: Changes, rows: Tensor) -> Tensor:
    """Images x (b, C, H, W) changed as `rows` (b,) of the whole batch's changes say.

    The frame mirrored about the images is as wide as any of the whole batch needs, so that an
    image is the same in any part of it. In full float32, whatever precision the network has.
    """
    with torch.autocast(x.device.type, enabled=False):
        return _changed(x, changes, rows.to(changes.inverse.device))


def _changed(x: Tensor, changes: Changes, rows: Tensor) -> Tensor:
    flips = (changes.mirrored[rows], -1), (changes.turned[rows], -2)
    for which, axis in flips:
        x = torch.where(which.to(x.device)[:, None, None, None], x.flip(axis), x)
    height, width = x.shape[-2:]
    left, right, top, bottom = frame(changes.inverse, height, width)
    inverse = _translation(*_scalars((left - right) / 2, (top - bottom) / 2))
    inverse = inverse @ changes.inverse[rows]
    wide = _doubled(F.pad(x, (left, right, top, bottom), mode="reflect"))
    out = 2 * (width + 2 * REACH), 2 * (height + 2 * REACH)
    half = _translation(*_scalars(-0.5, -0.5))
    doubled = half @ _scaling(*_scalars(2, 2)) @ inverse @ _scaling(*_scalars(0.5, 0.5))
    doubled = doubled @ _translation(*_scalars(0.5, 0.5))
    theta = (
        _scaling(*_scalars(2 / wide.shape[-1], 2 / wide.shape[-2]))
        @ doubled
        @ _scaling(*_scalars(out[0] / 2, out[1] / 2))
    )
    size = [*x.shape[:2], out[1], out[0]]
    grid = F.affine_grid(theta[:, :2].to(x), size, align_corners=False)
    return _halved(F.grid_sample(wide, grid, align_corners=False))


def frame(inverse: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels left, right, above and below that the changes reach for, less than a whole image."""
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = torch.tensor([[-x, -y, 1], [x, -y, 1], [x, y, 1], [-x, y, 1]], dtype=torch.float64)
    reached = (inverse @ corners.T)[:, :2].transpose(0, 1).flatten(1)

    def pixels(reach: Tensor, middle: float, most: int) -> int:
        return math.ceil(min(max(float(reach.max()) + 2 * REACH - middle, 0), most))

    return (
        pixels(-reached[0], x, width - 1),
        pixels(reached[0], x, width - 1),
        pixels(-reached[1], y, height - 1),
        pixels(reached[1], y, height - 1),
    )


def _doubled(x: Tensor) -> Tensor:
    """Twice the resolution, by the symlet; half as bright, which `_halved` makes good."""
    channels, taps = x.shape[1], x.new_tensor(SYMLET)
    pad = len(SYMLET) // 2 - 1
    across = taps.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1)
    x = F.conv_transpose2d(x, across, stride=(1, 2), padding=(0, pad), groups=channels)
    down = across.transpose(2, 3)
    return F.conv_transpose2d(x, down, stride=(2, 1), padding=(pad, 0), groups=channels)


def _halved(x: Tensor) -> Tensor:
    """Half the resolution, by the symlet, without the frame that it needs."""
    channels, taps = x.shape[1], x.new_tensor(SYMLET)
    pad = len(SYMLET) // 2 - 1
    across = taps.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1)
    x = F.conv2d(x, across, stride=(1, 2), padding=(0, pad), groups=channels)
    x = F.conv2d(x, across.transpose(2, 3), stride=(2, 1), padding=(pad, 0), groups=channels)
    return x[:, :, REACH:-REACH, REACH:-REACH]


def _inside(u: Tensor) -> Tensor:
    return u.clamp(1e-12, 1 - 1e-12)


def _scalars(*values: float) -> tuple[Tensor, ...]:
    return tuple(torch.tensor([value], dtype=torch.float64) for value in values)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], -1))


def _rotation(angle: Tensor) -> Tensor:
    """(B, 3, 3) by `angle` (B,), from the x axis toward the y axis."""
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = (cos, -sin, zero), (sin, cos, zero), (zero, zero, zero + 1)
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _translation(x: Tensor, y: Tensor) -> Tensor:
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows = (one, zero, x), (zero, one, y), (zero, zero, one)
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
