"""A classifier of noisy images, asked at a time of a schedule: it guides samplers to a label."""

import torch
from torch import Tensor, nn

from diffgen.denoiser.base import match
from diffgen.denoiser.noise_input import Told
from diffgen.schedule import Schedule


class NoisyClassifier(nn.Module):
    """x_t (B, C, H, W), t () or (B,) in [0, 1] -> logits (B, K).

    A raw network (see diffgen.network.classifier) that sees x_t / sqrt(alpha^2 + sigma^2), of one
    scale on every schedule, and hears `told` of the noise. One told nothing and trained at t = 0
    alone is a classifier of clean images.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, told: Told) -> None:
        super().__init__()
        self.network, self.schedule, self.told = network, schedule, told

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        scale = torch.hypot(self.schedule.alpha(t), self.schedule.sigma(t))
        told = self.told(self.schedule, t.expand(len(x_t)))
        told = None if told is None else told.to(x_t)
        return self.network(x_t / match(scale, x_t), told).to(x_t)
