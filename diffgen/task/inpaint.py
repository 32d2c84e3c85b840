"""Inpainting: lost pixels from the ones that are left."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffgen.dataset.pixels import grid
from diffgen.errors import UsageError
from diffgen.task.conditioning import Conditioning, Given
from diffgen.task.edit import ROWS, Edit, beside
from diffgen.task.inputs import digest
from diffgen.task.masks import MASKS, masks

LOST = 128  # how a lost pixel is shown


@dataclass(frozen=True, kw_only=True)
class Inpaint(Conditioning, Edit):
    """The known pixels come back bit by bit, the lost ones fit them.

    mask: what is lost. left, right, top, bottom half; center or random box of half the height
    and width; every_K, all but every K-th pixel of every K-th row; or a file, white where lost.
    """

    mask: str = "right"

    def __post_init__(self) -> None:
        self.check(self)

    @cached_property
    def lost(self) -> Tensor:
        """Where each picture has lost its pixels, bool (N, 1, H, W)."""
        _, height, width = self.shape
        found = masks(self.mask, self.seed, len(self.given), height, width)
        if found is None:
            if "." not in self.mask and "/" not in self.mask:
                raise UsageError(
                    f"no task.mask={self.mask}; there is {', '.join(MASKS)}, every_2 and so on, "
                    "or the path of a file"
                )
            found = self.inputs.mask(self.mask, self.resize).expand(len(self.given), -1, -1)
        return found[:, None]

    @property
    def content(self) -> str:
        return digest(self.given.pixels, self.lost)

    def draw(self, images: Sequence[int], device: torch.device) -> Tensor:
        noise, image = self.noise(images), self.clean(images, device)
        known = ~self.lost[[i // self.each for i in images]].to(device)
        x = self.begin(image, noise)
        given = Given(self.denoiser, image, known, self.label(images, device))
        return self.fill(self, x, given, noise)

    def files(self, images: Tensor) -> dict[str, Tensor]:
        masked = torch.where(self.lost, LOST, self.given.pixels)
        used = self.lost[:ROWS] if self.mask == "random" else self.lost[:1]
        shown = grid(255 * used.byte(), columns=1, gap=0)
        return {**beside(images, self.given.pixels, masked), "mask.png": shown}
