"""Denoisers that are exact, for laws of images that are known in closed form."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.sampler import Sampler
from diffgen.schedule import Schedule
from diffgen.schedule.constant import Constant
from diffgen.schedule.cosine import Cosine
from diffgen.schedule.edm import EDM
from diffgen.schedule.flow import Flow
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.linear import Linear
from diffgen.schedule.quadratic import Quadratic
from diffgen.schedule.sigmoid import Sigmoid
from diffgen.schedule.sigmoid_beta import SigmoidBeta
from diffgen.schedule.ve import VE
from diffgen.schedule.vp import VP

SCHEDULES: dict[str, Schedule] = {
    "linear": Linear(),
    "linear_short": Linear(levels=50),
    "linear_zero_snr": Linear(zero_snr=True),
    "cosine": Cosine(),
    "sigmoid": Sigmoid(),
    "sigmoid_beta": SigmoidBeta(),
    "quadratic": Quadratic(),
    "constant": Constant(),
    "vp": VP(),
    "vp_sub": VP(sub=True),
    "geometric": Geometric(sigma_max=50.0, levels=232),
    "ve": VE(),
    "edm": EDM(),
    "flow": Flow(),
    "flow_shifted": Flow(shift=3.0),
}


def scalar(value: float) -> Tensor:
    """A time, () float64."""
    return torch.tensor(value, dtype=torch.float64)


def silent(like: Tensor) -> Tensor:
    """Noise that is none."""
    return torch.zeros_like(like)


class Gaussian(Denoiser):
    """E[x0 | x_t] for x0 ~ N(mean, covariance); covariance a variance or (D, D), D = C H W."""

    def __init__(self, schedule: Schedule, covariance: float | Tensor, mean: float | Tensor = 0.0):
        super().__init__()
        self.schedule, self.mean = schedule, mean
        matrix = torch.as_tensor(covariance, dtype=torch.float64)
        self.spread, self.axes = (matrix, None) if matrix.ndim == 0 else torch.linalg.eigh(matrix)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = self.schedule.at(t, x_t)
        centred = x_t - alpha * self.mean
        if self.axes is None:
            gain = alpha * self.spread / (alpha**2 * self.spread + sigma**2)
            return self.mean + gain.to(x_t) * centred
        alpha, sigma = (f.reshape(-1, 1) if f.ndim else f for f in (alpha, sigma))
        gain = alpha * self.spread / (alpha**2 * self.spread + sigma**2)
        moved = (centred.flatten(1) @ self.axes * gain) @ self.axes.T
        return self.mean + moved.reshape(x_t.shape)


class Mixture(Denoiser):
    """E[x0 | x_t] for a mixture of round Gaussians; label k is component k alone, K is all.

    means (K, C, H, W), one variance, weights (K,).
    """

    def __init__(
        self, schedule: Schedule, means: Tensor, variance: float, weights: Sequence[float]
    ):
        super().__init__()
        self.schedule, self.means, self.variance = schedule, means, variance
        self.weights = torch.tensor(weights, dtype=torch.float64)

    def log_weights(self, label: Tensor | None, like: Tensor) -> Tensor:
        """ln weight of each component for each image, (B, K) or (1, K)."""
        if label is None:
            return self.weights.log()[None].to(like)
        one = torch.eye(len(self.weights), dtype=torch.float64)
        return torch.cat([one, self.weights[None]])[label].log().to(like)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = (f.reshape(-1, 1) if f.ndim else f for f in self.schedule.at(t, x_t[:, 0]))
        x, means = x_t.flatten(1), self.means.to(x_t).flatten(1)
        spread = alpha**2 * self.variance + sigma**2
        apart = (x[:, None] - torch.as_tensor(alpha)[..., None] * means).square().sum(-1)
        share = (self.log_weights(label, x) - apart / spread / 2).softmax(-1)
        centre = share @ means
        return (centre + alpha * self.variance / spread * (x - alpha * centre)).reshape(x_t.shape)

    def cdf(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Probability (B,) that x_t lies below x (B,), for images of one pixel."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        spread = (alpha**2 * self.variance + sigma**2).sqrt()
        below = torch.special.ndtr((x[:, None] - alpha * self.means.flatten()) / spread)
        return (self.log_weights(label, x).exp() * below).sum(-1)

    def quantile(self, part: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The x (B,) with cdf(x) = part (B,), by bisection.

        On one pixel the probability-flow ODE is the monotone map between laws, so that it takes
        quantile(part, t) to quantile(part, s) exactly.
        """
        reach = 20 * (1 + self.schedule.sigma(t)) * (1 + self.means.abs().max())
        low, high = -reach.expand_as(part), reach.expand_as(part)
        for _ in range(70):
            middle = (low + high) / 2
            below = self.cdf(middle, t, label) < part
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high


def two_peaks(schedule: Schedule) -> Mixture:
    """One pixel, peaks at -0.6 and 0.4 of standard deviation 0.25 and weights 0.3 and 0.7."""
    means = torch.tensor([-0.6, 0.4], dtype=torch.float64).reshape(2, 1, 1, 1)
    return Mixture(schedule, means, 0.25**2, [0.3, 0.7])


PARTS = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)  # quantiles that tests follow


def image(values: Tensor) -> Tensor:
    """(B,) -> images of one pixel (B, 1, 1, 1)."""
    return values.reshape(-1, 1, 1, 1)


class Impulses:
    """Noise that is a lone 1 at each call: row 2 + k is hit by call k, rows 0 and 1 never."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, like: Tensor) -> Tensor:
        unit = torch.zeros_like(like)
        unit[2 + self.calls :][:1] = 1
        self.calls += 1
        return unit


def law(
    sampler: Sampler, denoiser: Gaussian, times: Tensor, variance: float
) -> tuple[float, float]:
    """Mean and variance that a sampler gives x at times[-1], from N(0, variance) at times[0].

    With a linear denoiser x is a linear function of its start and of each draw of noise, so that
    the answers to single impulses tell both exactly.
    """
    count = Impulses()
    sampler(denoiser, torch.zeros(1, 1, 1, 1).double(), times, None, count)
    x = torch.zeros(2 + count.calls, 1, 1, 1).double()
    x[1] = 1
    found = sampler(denoiser, x, times, None, Impulses()).flatten()
    gains = (found[1:] - found[0]) ** 2
    return found[0].item(), (variance * gains[0] + gains[1:].sum()).item()
