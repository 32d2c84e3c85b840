"""Denoising: what a picture with noise of a known size may have been."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.sampler import Sampler
from diffgen.sampler.ddim import DDIM
from diffgen.sampler.ddpm import DDPM
from diffgen.sampler.dpmpp_2m_sde import DPMpp2MSDE
from diffgen.sampler.euler_maruyama import EulerMaruyama
from diffgen.task.edit import Edit, at_least, beside
from diffgen.task.times import even_log_snr

NEAR = 0.01  # relative distance of a noise from one of the levels that a network knows
REVERSE: tuple[Sampler, ...] = (
    DDPM("fixedsmall"),
    DDPM("fixedlarge"),
    DDIM(eta=1.0),
    DPMpp2MSDE(),
    EulerMaruyama(),
)  # those of the reverse-time SDE: only there do x_t and the image at its end belong together


@dataclass(frozen=True, kw_only=True)
class Denoise(Edit):
    """The mean of p(x0 | picture), and then `results` draws from it.

    sigma: of the noise, in units where black is 0 and white 1. The picture is the state at the
    time of this sigma, the mean is the denoiser's estimate there, and draws go on from there in
    steps even in ln(alpha / sigma). add_noise: pictures are clean and get the noise first.
    """

    sigma: float
    results: int = 4
    add_noise: bool = False

    def __post_init__(self) -> None:
        at_least("results", self.results, 0)
        if self.results and self.sampler not in REVERSE:
            raise UsageError(
                f"{type(self.sampler).__name__} as set does not draw from the posterior: take "
                "sampler=ddpm, dpmpp_2m_sde, euler_maruyama or ddim with sampler.eta=1, or "
                "task.results=0 for the mean alone"
            )
        self.check_sigma()

    def check_sigma(self) -> None:
        """UsageError for noise below or above that of the model's schedule."""
        schedule, scale = self.denoiser.schedule, self.pixel_range.scale
        ends = self.times.new_tensor([schedule.t_min, 1.0])
        low, high = ((-schedule.log_snr(ends)).exp() * scale).tolist()
        if not low <= self.sigma <= high:
            raise UsageError(
                f"task.sigma={self.sigma:g} is noise outside this model's schedule: it must lie "
                f"inside [{low:.3g}, {high:.3g}], where white is 1"
            )
        levels = schedule.levels
        if self.levels_only and levels:
            near = torch.stack([(self.time * levels).floor(), (self.time * levels).ceil()])
            known = ((-schedule.log_snr(near.clamp(min=1) / levels)).exp() * scale).tolist()
            if min(abs(math.log(self.sigma / sigma)) for sigma in known) > NEAR:
                raise UsageError(
                    f"task.sigma={self.sigma:g} lies between the noise levels of this network, "
                    f"which knows no others: take task.sigma={known[0]:.4g} or {known[1]:.4g}"
                )

    @cached_property
    def time(self) -> Tensor:
        """The time () at which sigma / alpha is that of the picture."""
        schedule, scale = self.denoiser.schedule, self.pixel_range.scale
        return schedule.time(-self.times.new_tensor(self.sigma / scale).log())

    @cached_property
    def path_times(self) -> Tensor:
        """The times of the draws: as many steps as were asked for, all below this noise.

        Fewer where the network knows fewer levels there.
        """
        schedule = self.denoiser.schedule
        times = even_log_snr(schedule, self.time, len(self.times) - 1)
        if not (self.levels_only and schedule.levels):
            return times
        return (times * schedule.levels).round().unique().flip(0) / schedule.levels

    @property
    def each(self) -> int:
        return 1 + self.results

    @cached_property
    def noisy(self) -> Tensor:
        """The pictures with their noise, in the model's range, (N, C, H, W)."""
        pictures = self.pixel_range.to_model(self.given.pixels)
        if not self.add_noise:
            return pictures
        streams = range(self.count, self.count + len(self.given))  # no image's own
        return pictures + self.sigma / self.pixel_range.scale * self.noise(streams)(pictures)

    @torch.no_grad()
    def draw(self, images: Sequence[int], device: torch.device) -> Tensor:
        own = [image // self.each for image in images]
        alpha, _ = self.denoiser.schedule.at(self.time, self.noisy)
        x, t = (alpha * self.noisy[own]).to(device), self.time
        x0 = self.denoiser(x, t, self.label(images, device))
        rows = [k for k, image in enumerate(images) if image % self.each]
        if rows:
            drawn = [images[k] for k in rows]
            label, noise = self.label(drawn, device), self.noise(drawn)
            x0[rows] = self.sampler(self.denoiser, x[rows], self.path_times, label, noise)
        return x0

    def files(self, images: Tensor) -> dict[str, Tensor]:
        noisy = self.pixel_range.to_uint8(self.noisy)
        before = (self.given.pixels, noisy) if self.add_noise else (noisy,)
        return beside(images, *before)
