"""The one loss: the squared error of the network's estimate, read as an error of eps.

NCSN's sigma^2-weighted denoising score matching (Song and Ermon 2019, equation 6) and DDPM's
L_simple (Ho et al. 2020, equation 14) are this function with other schedules and predictions.
A classifier of noisy images learns by cross-entropy instead.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from diffgen.denoiser.base import NoisyClassifier, Preconditioned
from diffgen.denoiser.learned_variance import between
from diffgen.denoiser.prediction import target_of
from diffgen.errors import UsageError
from diffgen.sampler.base import added_variance, posterior_variance
from diffgen.schedule import Schedule
from diffgen.schedule.base import match
from diffgen.training.coupling import Coupling, independent
from diffgen.training.random_numbers import RandomNumbers
from diffgen.training.times import Times
from diffgen.training.weighting import Weighting, snr_of

INFINITE = 1e4  # the outermost bins have no end beyond black and white


@dataclass(frozen=True)
class Loss:
    """Errors of a denoiser on noised images, `coupling` choosing the noise of each.

    `per_batch` gives a whole batch one time; `sum_pixels` sums over pixels instead of averaging
    (and halves, as NCSN does), which matters to gradient clipping and to Adam's epsilon. `bound`
    is added where the network learns its variance (Nichol and Dhariwal 2021, equation 16).
    """

    denoiser: Preconditioned
    times: Times
    weighting: Weighting
    per_batch: bool = False
    sum_pixels: bool = False
    bound: "VariationalBound | None" = None
    coupling: Coupling = independent

    @property
    def learner(self) -> Preconditioned:
        return self.denoiser

    def __call__(
        self,
        x0: Tensor,
        label: Tensor | None,
        random: RandomNumbers,
        augment: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Errors (b,) of clean images x0 (b, C, H, W) and the times t (b,) they were noised to.

        `augment` (b, n) tells the network how the images were augmented.
        """
        schedule = self.denoiser.schedule
        t, eps = self.draw_times(random), self.coupling(x0, random.normal(x0), label)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        coefficients = self.denoiser.prediction.coefficients(alpha, sigma)
        c_skip, c_out, c_in = coefficients

        x_t = match(alpha, x0) * x0 + match(sigma, x0) * eps
        outputs = self.denoiser.call_network(match(c_in, x0) * x_t, t, label, augment)
        raw = outputs[:, : x0.shape[1]]
        a, b = target_of(coefficients, alpha, sigma)
        target = match(a, x0) * x0 + match(b, x0) * eps
        error = self.reduced((raw - target).square())

        # An error of F makes one of x0 that is c_out times it, and one of eps that is c_out
        # alpha / sigma times it; the weights are those of errors of eps.
        snr = snr_of(alpha, sigma)
        weight = self.weighting(snr, t, schedule) * torch.square(c_out) * snr
        error = weight.to(error) * error
        uncertainty = self.denoiser.log_uncertainty(t, x0)
        if uncertainty is not None:  # Karras et al. 2024, equation 21
            error = error / uncertainty.exp() + uncertainty
        if self.bound:
            estimate = match(c_skip, x0) * x_t + match(c_out, x0) * raw
            error = error + self.reduced(self.bound(x0, estimate, outputs, t))
        return error, t

    def reduced(self, values: Tensor) -> Tensor:
        """One number (b,) for the pixels of each image."""
        return values.flatten(1).sum(1) / 2 if self.sum_pixels else values.flatten(1).mean(1)

    def draw_times(self, random: RandomNumbers) -> Tensor:
        """The times (b,) of this part of the batch."""
        u, schedule = random.uniform("time"), self.denoiser.schedule
        t = self.times(u[:1], schedule).expand_as(u) if self.per_batch else self.times(u, schedule)
        return random.local(t)


@dataclass(frozen=True)
class ClassifierLoss:
    """Cross-entropy of a classifier on noised images x_t at drawn times.

    Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis (2021), section 4: the
    classifier learns on the noise that the model it will guide was trained with.
    """

    classifier: NoisyClassifier
    times: Times

    @property
    def learner(self) -> NoisyClassifier:
        return self.classifier

    def __call__(
        self, x0: Tensor, label: Tensor, random: RandomNumbers, augment: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Errors (b,) on clean images x0 (b, C, H, W), their times (b,), and 1 where right.

        A classifier is not told of `augment`.
        """
        schedule = self.classifier.schedule
        t = random.local(self.times(random.uniform("time"), schedule))
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x_t = match(alpha, x0) * x0 + match(sigma, x0) * random.normal(x0)
        logits = self.classifier(x_t, t)
        errors = F.cross_entropy(logits, label, reduction="none")
        return errors, t, (logits.argmax(1) == label).float()


@dataclass(frozen=True)
class VariationalBound:
    """One term of the bound, in bits: Ho et al. 2020, equation 5: L_(t-1), L_0 at the first level.

    It teaches the variance alone: the mean is taken as given (Nichol and Dhariwal 2021, section
    3.1). `low` and `high` are a black and a white pixel, 255 steps apart. UsageError on a schedule
    without levels.
    """

    schedule: Schedule
    low: float
    high: float
    weight: float = 1e-3  # of the bound in the hybrid loss, where all its terms are summed

    def __post_init__(self) -> None:
        if not self.schedule.levels:
            raise UsageError(
                "model.variance=learned needs a schedule of levels, such as linear or cosine"
            )

    def __call__(self, x0: Tensor, estimate: Tensor, outputs: Tensor, t: Tensor) -> Tensor:
        """weight x levels x bits (b, C, H, W) of images x0, with estimates of them.

        outputs (b, 2 C, H, W) are the network's at times t (b,).
        """
        levels = self.schedule.levels or 1
        estimate, at_first_level = estimate.detach(), t * levels < 1.5
        log_small, log_large, c_x0 = (match(value, x0) for value in self.coefficients(t))
        log_variance = between(outputs, log_small, log_large)
        kl = gaussian_kl((c_x0 * (x0 - estimate)).square(), log_small, log_variance)
        nll = self.negative_log_likelihood(x0, estimate, log_variance)
        nats = torch.where(match(at_first_level, x0).bool(), nll, kl)
        return self.weight * levels / math.log(2) * nats

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b,) each: ln of the posterior's and of the added variance, weight of x0 in the mean.

        The posterior's variance is 0 on the step to the image and that of the step before there.
        """
        schedule, unit = self.schedule, 1 / (self.schedule.levels or 1)
        s = torch.where(t < 1.5 * unit, 0, t - unit)
        later = t.clamp(min=2 * unit)
        log_small = posterior_variance(schedule, later, later - unit).log()
        log_large = added_variance(schedule, t, s).log()
        alpha_t, alpha_s = schedule.alpha(t), schedule.alpha(s)
        c_x_t = alpha_t / alpha_s * (schedule.sigma(s) / schedule.sigma(t)) ** 2
        return log_small, log_large, alpha_s - c_x_t * alpha_t

    def negative_log_likelihood(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """-ln of the probability of each pixel's byte (Ho et al. 2020, equation 13)."""
        half = (self.high - self.low) / 510
        above = torch.where(x0 > self.high - half, INFINITE, x0 + half - mean)
        below = torch.where(x0 < self.low + half, -INFINITE, x0 - half - mean)
        # In the lower tail, where differences of the distribution function are exact.
        precision = torch.where(x0 > mean, -1, 1) * (-log_variance / 2).exp()
        ndtr = torch.special.ndtr
        return -(ndtr(precision * above) - ndtr(precision * below)).abs().clamp(min=1e-12).log()


def gaussian_kl(square: Tensor, true: Tensor, model: Tensor) -> Tensor:
    """KL(true || model) of two Gaussians in nats, of log-variances `true` and `model`.

    `square` is that of the difference of their means.
    """
    return 0.5 * (model - true - 1 + (true - model).exp() + square * (-model).exp())
