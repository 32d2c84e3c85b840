"""The loss of a classifier of noisy images: cross-entropy on x_t at drawn times.

Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis (2021), section 4: the
classifier learns on the noise that the model it will guide was trained with.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from diffgen.denoiser.noisy_classifier import NoisyClassifier
from diffgen.schedule.base import match
from diffgen.training.random_numbers import RandomNumbers
from diffgen.training.times import Times


@dataclass(frozen=True)
class ClassifierLoss:
    """Errors of a classifier on noised images."""

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
