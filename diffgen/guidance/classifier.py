"""Classifier guidance: a classifier of noisy images pulls the estimate toward its label.

Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis (2021), section 4. Sampling from
p(x) p(y | x)^w adds w grad ln p(y | x_t) to the score, which is what algorithm 2 does to eps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffgen.denoiser import Denoiser, Wrapper
from diffgen.guidance.formula import Interval, Weight
from diffgen.schedule.base import match


class ClassifierGuidance(Wrapper):
    """x0 + w sigma^2 / alpha grad ln p(y | x_t), hence eps - w sigma grad.

    `classifier(x_t, t (B,)) -> logits (B, K)` has learned on the denoiser's schedule and is asked
    at the time at hand, whatever times a sampler visits. `null` is the number of classes that the
    denoiser knows: one of 0 is never given the label. weight: 0 asks the classifier nothing; the
    power of p(y | x) is w over an unconditional denoiser, 1 + w over a conditional one. Rows
    without a label (None, or K) are not guided, nor is a time of alpha = 0, where x_t shows
    nothing.

    DDPM's ancestral mean moves by (alpha_s / alpha_t) v w grad, v the variance that the noising
    adds from s to t. Algorithm 1's variance times gradient is the small-step limit of this for
    v itself (fixedlarge); with the posterior's variance (fixedsmall) the product fades near t = 0.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        classifier: nn.Module,
        null: int,
        weight: float = 1.0,
        interval: Interval = None,
    ) -> None:
        super().__init__(denoiser)
        self.classifier, self.null, self.weight = classifier, null, Weight(weight, interval)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        x0 = self.denoiser(x_t, t, label if self.null else None)
        weight = self.weight.at(self.schedule, t)
        if label is None or (weight == 0).all():
            return x0
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        reach = torch.where(alpha > 0, weight * sigma**2 / alpha, 0)
        return x0 + match(reach, x_t) * self.gradient(x_t, t, label)

    def gradient(self, x_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """grad ln p(label | x_t) at x_t, (B, C, H, W), 0 in rows without a label.

        The classifier runs outside autocast: in float16 small gradients would vanish.
        """
        with torch.enable_grad(), torch.autocast(x_t.device.type, enabled=False):
            x = x_t.detach().requires_grad_()
            logits = self.classifier(x, t.expand(len(x)))
            loss = F.cross_entropy(logits, label, ignore_index=logits.shape[1], reduction="sum")
            return -torch.autograd.grad(loss, x)[0]
