"""No guidance."""

from torch import Tensor

from diffgen.denoiser import Denoiser


class Unguided(Denoiser):
    """The denoiser as it is, given the label."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.denoiser(x_t, t, label)
