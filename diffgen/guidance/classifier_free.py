"""Classifier-free guidance: (1 + w) D(x, c) - w D(x, null).

Ho and Salimans, Classifier-Free Diffusion Guidance (2022), equation 6. Everything that follows
from x0 (eps, score, v) is affine in it, so each of them is guided by the same weight.
"""

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser, Wrapper
from diffgen.errors import UsageError
from diffgen.guidance.formula import Interval, Weight, guide


class ClassifierFree(Wrapper):
    """One denoiser with and without the label; `null` is the label that says "no label".

    weight: -1 unconditional, 0 conditional, > 0 guided; the papers' scale is 1 + weight. Both
    branches go through the denoiser in one batch of 2 B rows; where the weight is 0 (outside
    `interval`, in sigma / alpha) or -1 there is one branch, and so with label None, which is
    unconditional at any weight. Rows may carry the null label.

    rescale: 0 to 1, how far the standard deviation of each guided image is pulled back to the
    conditional one's (Lin et al. 2024, equations 15 and 16). It acts on x0, whose contrast is what
    large weights overdo, and so means the same for every prediction type; the paper's v is -x0 at
    the noisiest level. At weight -1 it does nothing.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        null: int,
        weight: float = 0.0,
        interval: Interval = None,
        rescale: float = 0.0,
    ) -> None:
        super().__init__(denoiser)
        if not 0 <= rescale <= 1:
            raise UsageError(f"guidance.rescale={rescale:g} must be a share from 0 to 1")
        self.null, self.weight, self.rescale = null, Weight(weight, interval), rescale

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        weight = self.weight.at(self.schedule, t)
        if label is None or (weight == -1).all():
            return self.denoiser(x_t, t)
        if (weight == 0).all():
            return self.denoiser(x_t, t, label)
        cond, uncond = self.branches(x_t, t, label)
        return rescaled(guide(cond, uncond, weight), cond, self.rescale)

    def branches(self, x_t: Tensor, t: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """The estimates with and without the label, (B, C, H, W) each, from one call."""
        labels = torch.cat((label, torch.full_like(label, self.null)))
        times = torch.cat((t, t)) if t.ndim else t
        cond, uncond = self.denoiser(torch.cat((x_t, x_t)), times, labels).chunk(2)
        return cond, uncond


def rescaled(guided: Tensor, cond: Tensor, amount: float) -> Tensor:
    """`guided` (B, ...), the standard deviation of each row moved by `amount` to that of `cond`.

    A flat image has no contrast to restore and stays as it is.
    """
    pixels = tuple(range(1, guided.ndim))
    target, own = (x.std(pixels, correction=0, keepdim=True) for x in (cond, guided))
    ratio = torch.where(own > 0, target / own, 1)
    return guided * (1 + amount * (ratio - 1))
