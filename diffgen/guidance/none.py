"""No guidance."""

from torch import Tensor

from diffgen.denoiser import Wrapper


class Unguided(Wrapper):
    """The denoiser as it is, given the label."""

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.denoiser(x_t, t, label)
