"""Denoisers: estimates of the image under the noise, the one thing that samplers call.

eps = (x_t - alpha x0) / sigma and score = -eps / sigma are affine in x0, so whatever edits the
estimate of x0 (guidance, clipping) is a denoiser too, and the other two views follow.
"""

import abc

import torch
from torch import Tensor, nn

from diffgen.denoiser.noise_input import NoiseInput
from diffgen.denoiser.prediction import Prediction
from diffgen.schedule import Schedule
from diffgen.schedule.base import match


class Denoiser(nn.Module, abc.ABC):
    """x_t (B, C, H, W), t () or (B,) in (0, 1], label (B,) or None -> x0 (B, C, H, W)."""

    schedule: Schedule

    @abc.abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The estimate of x0; label None means unconditional."""

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The noise that x_t must hold if x0 is right, (B, C, H, W)."""
        alpha, sigma = self.schedule.at(t, x_t)
        return (x_t - alpha * self(x_t, t, label)) / sigma

    def score(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The gradient of ln p_t at x_t by Tweedie's formula, (B, C, H, W)."""
        alpha, sigma = self.schedule.at(t, x_t)
        return (alpha * self(x_t, t, label) - x_t) / sigma**2


class Preconditioned(Denoiser):
    """A raw network made a denoiser: x0 = c_skip x_t + c_out F(c_in x_t, c_noise, label).

    The arithmetic around the network is float32 even under autocast. A network of a learned
    variance gives 2 C channels, F first; see diffgen.denoiser.learned_variance for the others.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        prediction: Prediction,
        noise_input: NoiseInput,
        learns_variance: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.schedule = network, schedule
        self.prediction, self.noise_input = prediction, noise_input
        self.learns_variance = learns_variance

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        c_skip, c_out, c_in = self.coefficients(t, x_t)
        raw = self.call_network(c_in * x_t, t, label)[:, : x_t.shape[1]]
        return c_skip * x_t + c_out * raw

    def raw(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's own output F (B, C, H, W), in the type of x_t."""
        return self.outputs(x_t, t, label)[:, : x_t.shape[1]]

    def outputs(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """All that the network gives: F, and behind it what it may say of the variance."""
        *_, c_in = self.coefficients(t, x_t)
        return self.call_network(c_in * x_t, t, label)

    def call_network(
        self, scaled: Tensor, t: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """As `outputs`, of what the network itself is given: `scaled` = c_in x_t (B, C, H, W).

        `augment` (B, n) says how images were augmented in training; None: not at all.
        """
        c_noise = self.noise_input(self.schedule, t.expand(scaled.shape[0]))
        c_noise = None if c_noise is None else c_noise.to(scaled)
        extra = () if augment is None else (augment.to(scaled),)
        return self.network(scaled, c_noise, label, *extra).to(scaled)

    def log_uncertainty(self, t: Tensor, like: Tensor) -> Tensor | None:
        """ln of the error that a network expects of itself at t (b,); None where it has no say.

        On the device of `like`, in full float32.
        """
        said = getattr(self.network, "log_uncertainty", None)
        c_noise = self.noise_input(self.schedule, t)
        if said is None or c_noise is None:
            return None
        with torch.autocast(like.device.type, enabled=False):
            return said(c_noise.to(like.device, torch.float32))

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, ...]:
        """c_skip, c_out and c_in at t, shaped and cast to multiply `like`."""
        values = self.prediction.coefficients(self.schedule.alpha(t), self.schedule.sigma(t))
        return tuple(match(value, like) for value in values)


class Wrapper(Denoiser, abc.ABC):
    """A denoiser that edits what another one of the same schedule estimates."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule


class Clipped(Wrapper):
    """A denoiser whose estimate is kept inside the data's range [low, high].

    DDPM clips before it forms the mean (Ho et al. 2020's code); eps follows from the clipped x0.
    """

    def __init__(self, denoiser: Denoiser, low: float, high: float) -> None:
        super().__init__(denoiser)
        self.low, self.high = low, high

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.denoiser(x_t, t, label).clamp(self.low, self.high)


class Thresholded(Wrapper):
    """Dynamic thresholding (Saharia et al. 2022, section 2.3), about the middle of the range.

    Where the `quantile` of an image's distance from the middle exceeds half the range, the image
    is clipped there and scaled back into the range.
    """

    def __init__(
        self, denoiser: Denoiser, low: float, high: float, quantile: float = 0.995
    ) -> None:
        super().__init__(denoiser)
        self.middle, self.radius, self.quantile = (low + high) / 2, (high - low) / 2, quantile

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        x0 = self.denoiser(x_t, t, label) - self.middle
        reach = torch.quantile(x0.flatten(1).abs(), self.quantile, dim=1).clamp(min=self.radius)
        reach = reach.reshape(-1, *(1,) * (x0.ndim - 1))
        return self.middle + x0.clamp(-reach, reach) * (self.radius / reach)


class NoisyClassifier(nn.Module):
    """x_t (B, C, H, W), t () or (B,) in [0, 1] -> logits (B, K).

    A raw network (see diffgen.network.classifier) that sees x_t / sqrt(alpha^2 + sigma^2), of one
    scale on every schedule, and `noise_input` of its level. One without a noise input, trained at
    t = 0 alone, is a classifier of clean images.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, noise_input: NoiseInput) -> None:
        super().__init__()
        self.network, self.schedule, self.noise_input = network, schedule, noise_input

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        scale = torch.hypot(self.schedule.alpha(t), self.schedule.sigma(t))
        c_noise = self.noise_input(self.schedule, t.expand(len(x_t)))
        c_noise = None if c_noise is None else c_noise.to(x_t)
        return self.network(x_t / match(scale, x_t), c_noise).to(x_t)
