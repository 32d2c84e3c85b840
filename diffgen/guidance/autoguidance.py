"""Autoguidance: a model guided away from a worse version of itself.

Karras et al., Guiding a Diffusion Model with a Bad Version of Itself (2024), section 4.
"""

from torch import Tensor

from diffgen.denoiser import Denoiser, Wrapper
from diffgen.guidance.formula import Interval, Weight, guide


class Autoguidance(Wrapper):
    """(1 + w) D(x, c) - w D_weak(x, c), the paper's scale being 1 + w.

    `weak` is smaller, less trained or of a shorter average, on the same schedule, data range and
    classes; labels are not needed. weight: -1 the weak model alone, 0 the good one alone, one
    branch each; so outside `interval`, in sigma / alpha.
    """

    def __init__(
        self, denoiser: Denoiser, weak: Denoiser, weight: float = 1.0, interval: Interval = None
    ) -> None:
        super().__init__(denoiser)
        self.weak, self.weight = weak, Weight(weight, interval)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        weight = self.weight.at(self.schedule, t)
        if (weight == 0).all():
            return self.denoiser(x_t, t, label)
        if (weight == -1).all():
            return self.weak(x_t, t, label)
        return guide(self.denoiser(x_t, t, label), self.weak(x_t, t, label), weight)
