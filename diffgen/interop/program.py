"""A denoiser as a program of torch.export, which runs without diffgen."""

import io

import torch
from torch import Tensor, nn

from diffgen.config.recipe import Shape
from diffgen.denoiser.base import Preconditioned
from diffgen.schedule.base import match

BATCH = 2  # of the examples; 1 would be taken for a constant


class AtSigma(nn.Module):
    """D(x; sigma, label) -> x0, all (B, C, H, W), in the convention of EDM: x = x0 + sigma eps.

    sigma (B,) above 0 is the noise of x relative to its image, sigma / alpha on any schedule
    (Karras et al. 2022, equation 3). label (B,) int64 where there are classes; their number means
    no label.
    """

    def __init__(self, denoiser: Preconditioned) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        schedule = self.denoiser.schedule
        t = schedule.time(-sigma.double().log())
        return self.denoiser(match(schedule.alpha(t), x) * x, t, label)


def program(denoiser: Preconditioned, shape: Shape, classes: int) -> bytes:
    """What torch.export.save writes of the denoiser at a sigma, for batches of any size."""
    module = AtSigma(denoiser).eval()
    inputs = [torch.zeros(BATCH, *shape), torch.ones(BATCH)]
    inputs += [torch.zeros(BATCH, dtype=torch.int64)] if classes else []
    batch = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        module(*inputs)  # so that schedules keep their tables before they are traced
        found = torch.export.export(
            module, tuple(inputs), dynamic_shapes=tuple({0: batch} for _ in inputs)
        )
    for node in found.graph.nodes:
        node.meta.pop("stack_trace", None)  # with paths of this machine
    file = io.BytesIO()
    torch.export.save(found, file)
    return file.getvalue()


def largest(denoiser: Preconditioned) -> float:
    """The sigma at t = 1, or at the last time before it where nothing of the image is left."""
    schedule = denoiser.schedule
    near = 1 - (1 / schedule.levels if schedule.levels else 1e-3)
    for t in (1.0, near):
        time = torch.tensor(t, dtype=torch.float64)
        ratio = float(schedule.sigma(time) / schedule.alpha(time))
        if ratio < 1e6:
            break
    return ratio


def smallest(denoiser: Preconditioned) -> float:
    """The sigma at the smallest time that the network saw."""
    schedule = denoiser.schedule
    t = torch.tensor(schedule.t_min, dtype=torch.float64)
    return float(schedule.sigma(t) / schedule.alpha(t))
