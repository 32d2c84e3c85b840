"""Encoding and likelihoods, on laws that are known."""

import math

import pytest
import torch
from analytic import PARTS, SCHEDULES, Gaussian, image, two_peaks

from diffgen.errors import UsageError
from diffgen.sampler import SeededNoise
from diffgen.sampler.ddim import DDIM
from diffgen.sampler.ddpm import DDPM
from diffgen.sampler.deis import DEIS
from diffgen.sampler.dpmpp_2m import DPMpp2M
from diffgen.sampler.dpmpp_2m_sde import DPMpp2MSDE
from diffgen.sampler.euler import Euler
from diffgen.sampler.euler_maruyama import EulerMaruyama
from diffgen.sampler.heun import Heun
from diffgen.sampler.langevin import Langevin
from diffgen.sampler.likelihood import bits_per_dim, encode, exact, hutchinson, log_density
from diffgen.sampler.pc import PC
from diffgen.sampler.rk45 import RK45
from diffgen.sampler.unipc import UniPC
from diffgen.schedule.linear import Linear
from diffgen.schedule.spacing import times

SAMPLERS = {
    "ddim": (DDIM(), 0.2),
    "heun": (Heun(), 0.02),
    "dpmpp_2m": (DPMpp2M(), 0.02),
    "unipc": (UniPC(), 2e-3),
    "deis": (DEIS(), 5e-3),
    "rk45": (RK45(), 2e-3),
}


@pytest.mark.parametrize("schedule", ["linear", "geometric"])
@pytest.mark.parametrize(("sampler", "bound"), SAMPLERS.values(), ids=SAMPLERS)
def test_encoding_carries_quantiles_to_quantiles(sampler, bound, schedule):
    """In units of the noise; and sampling gives the image back, but for what it denoises."""
    denoiser, drowned = two_peaks(SCHEDULES[schedule]), SCHEDULES[schedule]
    adaptive = sampler.spacing == "ends"
    time_points = times(drowned, *(("ends", None) if adaptive else ("log_snr", 60)))
    x = image(denoiser.quantile(PARTS, time_points[-1]))
    code = encode(sampler, denoiser, x, time_points)
    expected = denoiser.quantile(PARTS, time_points[0])
    assert ((code.flatten() - expected).abs() / drowned.sigma(time_points[0])).max() < bound
    back = sampler(denoiser, code, time_points, None, lambda like: like * math.nan)
    assert (back - x).abs().max() < bound


RANDOM = [DDPM(), DDIM(eta=0.1), DPMpp2MSDE(), PC(), EulerMaruyama(), Langevin(), Euler(churn=1.0)]


@pytest.mark.parametrize("sampler", RANDOM, ids=lambda sampler: type(sampler).__name__)
def test_no_encoding_where_noise_is_drawn(sampler):
    denoiser, time_points = two_peaks(Linear()), times(Linear(), "log_snr", 10)
    with pytest.raises(UsageError, match="sampler=ddim"):
        encode(sampler, denoiser, image(PARTS), time_points)


def model_log_density(schedule, x, covariance, time_points):
    """The exact ODE carries N(0, sigma_1^2) to a normal law: of the data, scaled per axis."""
    first, last = time_points[0], time_points[-2]
    values, axes = torch.linalg.eigh(covariance)
    noise = schedule.sigma(first) ** 2
    scale = noise / (schedule.alpha(first) ** 2 * values + noise)
    spread = (schedule.alpha(last) ** 2 * values + schedule.sigma(last) ** 2) * scale
    matrix = axes @ torch.diag(spread) @ axes.T
    normal = torch.distributions.MultivariateNormal(torch.zeros(len(values)).double(), matrix)
    return normal.log_prob(x.flatten(1))


@pytest.mark.parametrize("schedule", ["linear", "geometric", "edm", "vp"])
def test_log_density_of_a_gaussian(schedule):
    root = torch.randn(4, 4, generator=torch.Generator().manual_seed(3)).double() / 2
    covariance = root @ root.T + 0.1 * torch.eye(4, dtype=torch.float64)
    x = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(4)).double() / 2
    time_points = times(SCHEDULES[schedule], "log_snr", 40)
    found = log_density(Gaussian(SCHEDULES[schedule], covariance), x, time_points)
    expected = model_log_density(SCHEDULES[schedule], x, covariance, time_points)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_log_density_of_a_mixture():
    """One pixel: the density of the data with the noise left at t_min, 0.01."""
    denoiser, time_points = two_peaks(SCHEDULES["ve"]), times(SCHEDULES["ve"], "log_snr", 60)
    x = torch.linspace(-1.2, 1.0, 12, dtype=torch.float64)
    spread = math.hypot(0.25, 0.01)
    parts = [
        weight / (spread * math.sqrt(2 * math.pi)) * (-(((x - mean) / spread) ** 2) / 2).exp()
        for weight, mean in ((0.3, -0.6), (0.7, 0.4))
    ]
    found = log_density(denoiser, image(x), time_points)
    torch.testing.assert_close(found, sum(parts).log(), atol=8e-3, rtol=0)  # the prior leaves 5e-3


def test_hutchinson_is_right_on_average():
    root = torch.randn(4, 4, generator=torch.Generator().manual_seed(3)).double() / 2
    denoiser = Gaussian(Linear(), root @ root.T + 0.1 * torch.eye(4, dtype=torch.float64))
    x = torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64).expand(2000, 1, 2, 2)
    time_points = times(Linear(), "log_snr", 12)
    probe = SeededNoise(1, range(2000))(x)
    found = log_density(denoiser, x, time_points, hutchinson(probe))
    expected = log_density(denoiser, x[:1], time_points, exact)
    assert abs(found.mean() - expected.item()) < 4 * found.std() / 2000**0.5
    assert found.std() > 0.01


def test_bits_per_dim_of_even_bytes():
    """Bytes that are all equally likely carry 8 bits, whatever the model's range."""
    for low, high in ((-1.0, 1.0), (0.0, 1.0)):
        nats = torch.tensor([-12 * math.log(high - low)])
        assert bits_per_dim(nats, 12, (high - low) / 256).item() == pytest.approx(8)
