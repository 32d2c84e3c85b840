"""The one loss: the squared error of the network's estimate, read as an error of eps.

NCSN's sigma^2-weighted denoising score matching (Song and Ermon 2019, equation 6) and DDPM's
L_simple (Ho et al. 2020, equation 14) are this function with other schedules and predictions.
A classifier of noisy images learns by cross-entropy instead.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from diffgen.denoiser.base import Preconditioned
from diffgen.denoiser.noisy_classifier import NoisyClassifier
from diffgen.denoiser.prediction import target_of
from diffgen.schedule.base import match
from diffgen.training.bound import Bound
from diffgen.training.random_numbers import RandomNumbers
from diffgen.training.times import Times
from diffgen.training.weighting import Weighting, snr_of


@dataclass(frozen=True)
class Loss:
    """Errors of a denoiser on noised images.

    `per_batch` gives a whole batch one time; `total` sums over pixels instead of averaging (and
    halves, as NCSN does), which matters to gradient clipping and to Adam's epsilon. `bound` is
    added where the network learns its variance (Nichol and Dhariwal 2021, equation 16).
    """

    denoiser: Preconditioned
    times: Times
    weighting: Weighting
    per_batch: bool = False
    total: bool = False
    bound: Bound | None = None

    @property
    def learner(self) -> Preconditioned:
        """What is trained."""
        return self.denoiser

    def __call__(
        self, x0: Tensor, label: Tensor | None, random: RandomNumbers
    ) -> tuple[Tensor, Tensor]:
        """Errors (b,) of clean images x0 (b, C, H, W) and the times t (b,) they were noised to."""
        schedule = self.denoiser.schedule
        t, eps = self.draw_times(random), random.normal(x0)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        coefficients = self.denoiser.prediction.coefficients(alpha, sigma)
        c_skip, c_out, c_in = coefficients

        x_t = match(alpha, x0) * x0 + match(sigma, x0) * eps
        outputs = self.denoiser.call_network(match(c_in, x0) * x_t, t, label)
        raw = outputs[:, : x0.shape[1]]
        a, b = target_of(coefficients, alpha, sigma)
        target = match(a, x0) * x0 + match(b, x0) * eps
        error = self.reduced((raw - target).square())

        # An error of F is c_out times smaller than one of x0, which is alpha / sigma that of eps.
        snr = snr_of(alpha, sigma)
        weight = self.weighting(snr, t, schedule) * torch.square(c_out) * snr
        error = weight.to(error) * error
        if self.bound:
            mean = match(c_skip, x0) * x_t + match(c_out, x0) * raw
            error = error + self.reduced(self.bound(x0, mean, outputs, t))
        return error, t

    def reduced(self, values: Tensor) -> Tensor:
        """One number (b,) for the pixels of each image."""
        return values.flatten(1).sum(1) / 2 if self.total else values.flatten(1).mean(1)

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
        """What is trained."""
        return self.classifier

    def __call__(
        self, x0: Tensor, label: Tensor, random: RandomNumbers
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Errors (b,) on clean images x0 (b, C, H, W), their times (b,), and 1 where right."""
        schedule = self.classifier.schedule
        t = random.local(self.times(random.uniform("time"), schedule))
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x_t = match(alpha, x0) * x0 + match(sigma, x0) * random.normal(x0)
        logits = self.classifier(x_t, t)
        errors = F.cross_entropy(logits, label, reduction="none")
        return errors, t, (logits.argmax(1) == label).float()
