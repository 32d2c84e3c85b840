"""What an ancestral step from t to s needs: an estimate of x0, and the variance of x_s."""

from collections.abc import Callable

from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.denoiser.learned_variance import between, estimate
from diffgen.sampler.base import VARIANCES, Variance

Step = Callable[[Denoiser, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def fixed(variance: Variance) -> Step:
    """Steps whose variance () the schedule gives."""
    return lambda denoiser, x, t, s, label: (
        denoiser(x, t, label),
        variance(denoiser.schedule, t, s),
    )


def learned(
    denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A step whose variance (B, C, H, W) the network gives, between the schedule's two."""
    x0, outputs = estimate(denoiser, x, t, label)
    small, large = (
        VARIANCES[name](denoiser.schedule, t, s).log() for name in ("fixedsmall", "fixedlarge")
    )
    return x0, between(outputs, small, large).exp()


STEPS = {name: fixed(variance) for name, variance in VARIANCES.items()} | {"learned": learned}
