"""A classifier of noisy images, asked at a time of a schedule: it guides samplers to a label."""

import torch
from torch import Tensor, nn

from diffgen.denoiser.noise_input import NoiseInput
from diffgen.schedule import Schedule
from diffgen.schedule.base import match


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
