"""Denoisers: Tweedie's formula, the papers' parametrisations on every schedule, clipping."""

import math

import pytest
import torch
from analytic import SCHEDULES, Gaussian, scalar, two_peaks
from running import classes
from torch import Tensor, nn

from diffgen.denoiser import Clipped, Denoiser, Preconditioned
from diffgen.denoiser.base import Thresholded
from diffgen.denoiser.noise_input import level, log_sigma, nothing
from diffgen.denoiser.prediction import Edm, Score, target_of
from diffgen.schedule import Schedule
from diffgen.schedule.edm import EDM
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.linear import Linear

EVERY = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
T = torch.tensor([0.05, 0.3, 0.7, 1.0], dtype=torch.float64)
SD = 0.4


def stops(schedule: Schedule) -> Tensor:
    """T, its last just below pure noise where that leaves nothing of the image."""
    return T if schedule.alpha(T[-1]) > 0 else 0.98 * T


def noisy() -> Tensor:
    return torch.randn(4, 1, 2, 3, generator=torch.Generator().manual_seed(1)).double()


def covariance() -> Tensor:
    root = torch.randn(6, 6, generator=torch.Generator().manual_seed(2)).double() / 3
    return root @ root.T + 0.05 * torch.eye(6, dtype=torch.float64)


def log_normal(x: Tensor, mean: Tensor | float, covariance: Tensor) -> Tensor:
    normal = torch.distributions.MultivariateNormal
    return normal(torch.zeros(len(covariance)).double() + mean, covariance).log_prob(x)


@EVERY
def test_gaussian_score_is_the_gradient_of_its_density(schedule):
    """x_t is normal with mean alpha m and covariance alpha^2 S + sigma^2."""
    times = stops(schedule)
    x = noisy().requires_grad_()
    for row, t in enumerate(times):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        spread = alpha**2 * covariance() + sigma**2 * torch.eye(6, dtype=torch.float64)
        density = log_normal(x[row].flatten(), alpha * 0.2, spread)
        expected = torch.autograd.grad(density, x)[0][row]
        found = Gaussian(schedule, covariance(), 0.2).score(x.detach(), times)[row]
        torch.testing.assert_close(found, expected)


@EVERY
def test_mixture_score_is_the_gradient_of_its_density(schedule):
    times = stops(schedule)
    x = torch.linspace(-2, 2, 4, dtype=torch.float64).reshape(4, 1, 1, 1).requires_grad_()
    for row, t in enumerate(times):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        spread = (alpha**2 * 0.25**2 + sigma**2).reshape(1, 1)
        parts = [log_normal(x[row].flatten(), alpha * mean, spread) for mean in (-0.6, 0.4)]
        density = torch.logaddexp(parts[0] + math.log(0.3), parts[1] + math.log(0.7))
        expected = torch.autograd.grad(density, x)[0][row]
        torch.testing.assert_close(two_peaks(schedule).score(x.detach(), times)[row], expected)


@EVERY
def test_the_views_compose_to_the_noisy_image(schedule):
    """alpha x0 + sigma eps = x, score = -eps / sigma; one time for all is a time each."""
    times = stops(schedule)
    denoiser, x = two_peaks(schedule), noisy()[:, :, :1, :1]
    alpha, sigma = schedule.at(times, x)
    x0, eps = denoiser(x, times), denoiser.eps(x, times)
    torch.testing.assert_close(alpha * x0 + sigma * eps, x)
    torch.testing.assert_close(denoiser.score(x, times), -eps / sigma)
    torch.testing.assert_close(denoiser.score(x, times)[2], denoiser.score(x, times[2])[2])


class Perfect(nn.Module):
    """A network that predicts, as its paper defines it, what the exact denoiser implies."""

    def __init__(self, denoiser: Denoiser, kind: str):
        super().__init__()
        self.denoiser, self.kind = denoiser, kind

    def forward(self, seen: Tensor, c_noise: Tensor, label: Tensor | None) -> Tensor:
        alpha, sigma = self.denoiser.schedule.at(c_noise, seen)
        norm = (alpha**2 + sigma**2).sqrt()
        widths = {"score": 1.0, "raw_score": 1.0, "edm": (alpha**2 * SD**2 + sigma**2).sqrt()}
        widths["flow"] = alpha + sigma
        x = seen * widths.get(self.kind, norm)
        x0, eps = self.denoiser(x, c_noise, label), self.denoiser.eps(x, c_noise, label)
        u = sigma / alpha
        width = (u**2 + SD**2).sqrt()
        return {
            "eps": eps,
            "x0": x0,
            "score": sigma * self.denoiser.score(x, c_noise, label),
            "raw_score": self.denoiser.score(x, c_noise, label),
            "v": (alpha * eps - sigma * x0) / norm,
            "flow": eps - x0,
            "edm": (x0 - SD**2 / width**2 * (x / alpha)) / (u * SD / width),  # table 1, in y = x/a
        }[self.kind]


def clock(schedule: object, t: Tensor) -> Tensor:
    return t


@EVERY
@pytest.mark.parametrize("kind", classes("prediction"))
def test_every_prediction_is_the_same_denoiser(kind, schedule):
    times = stops(schedule)
    exact = Gaussian(schedule, covariance(), 0.2)
    scaling = Edm(SD) if kind == "edm" else classes("prediction")[kind]()
    found = Preconditioned(Perfect(exact, kind), schedule, scaling, clock)(noisy(), times)
    torch.testing.assert_close(found, exact(noisy(), times), atol=1e-7, rtol=1e-7)


@EVERY
@pytest.mark.parametrize("kind", classes("prediction"))
def test_the_target_gives_back_the_image(kind, schedule):
    """skip x_t + out (a x0 + b eps) = x0, whatever x0 and eps are."""
    times = stops(schedule)
    prediction = classes("prediction")[kind]()
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    coefficients = prediction.coefficients(alpha, sigma)
    (skip, out, _), (a, b) = coefficients, target_of(coefficients, alpha, sigma)
    torch.testing.assert_close(skip * alpha + out * a, torch.ones(4).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(skip * sigma + out * b, torch.zeros(4).double(), atol=1e-9, rtol=0)


@EVERY
def test_edm_has_unit_variance_in_and_out(schedule):
    """Karras et al. 2022, appendix B.6, at every level."""
    t = torch.linspace(schedule.t_min, 1, 50, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    (_, _, in_), (a, b) = (
        Edm(SD).coefficients(alpha, sigma),
        target_of(Edm(SD).coefficients(alpha, sigma), alpha, sigma),
    )
    one = torch.ones(50, dtype=torch.float64)
    torch.testing.assert_close(in_**2 * (alpha**2 * SD**2 + sigma**2), one)
    torch.testing.assert_close(a**2 * SD**2 + b**2, one, atol=1e-9, rtol=0)


def test_edm_is_table_1():
    sigma = torch.tensor([0.002, 1.0, 80.0], dtype=torch.float64)
    skip, out, in_ = Edm(0.5).coefficients(torch.ones(3).double(), sigma)
    torch.testing.assert_close(skip, 0.25 / (sigma**2 + 0.25))
    torch.testing.assert_close(out, sigma * 0.5 / (sigma**2 + 0.25).sqrt())
    torch.testing.assert_close(in_, 1 / (sigma**2 + 0.25).sqrt())


def constant(seen: Tensor, c_noise: Tensor | None, label: Tensor | None) -> Tensor:
    assert c_noise is None
    return torch.full_like(seen, 0.7)


class Constant(nn.Module):
    forward = staticmethod(constant)


def test_technique_3():
    """NCSNv2's score is the network's output over sigma, and the network knows no level."""
    schedule = Geometric(sigma_max=50.0, levels=232)
    denoiser = Preconditioned(Constant(), schedule, Score(), nothing)
    scaled = denoiser.score(noisy(), T) * schedule.at(T, noisy())[1]
    torch.testing.assert_close(scaled, torch.full_like(scaled, 0.7))


def test_noise_inputs():
    t = torch.tensor([0.001, 0.5, 1.0], dtype=torch.float64)
    assert level(Linear(), t).tolist() == [0, 499, 999]
    torch.testing.assert_close(log_sigma(EDM(), t), EDM().sigma(t).log() / 4)


def test_training_stays_in_float32():
    denoiser = Preconditioned(Constant(), EDM(), Edm(), nothing)
    for t in (T, scalar(0.5)):
        assert denoiser(noisy().float(), t).dtype == torch.float32


def test_clipping_comes_before_the_noise():
    """x0 and eps still compose to x after clipping (Ho et al. 2020's code clips x0 first)."""
    exact = Gaussian(Linear(), 4.0)
    clipped, x, t = Clipped(exact, -1, 1), 3 * noisy(), scalar(0.1)
    alpha, sigma = Linear().at(t, x)
    assert (exact(x, t).abs() > 1).any()
    assert (clipped(x, t) == exact(x, t).clamp(-1, 1)).all()
    torch.testing.assert_close(clipped.eps(x, t), (x - alpha * clipped(x, t)) / sigma)


def test_dynamic_thresholding_by_hand():
    """The image's own 50 % quantile, 2, becomes the edge of the range [-1, 1]."""
    x = torch.tensor([[-4.0, 1.0, 2.0], [0.1, -0.5, 0.9]]).reshape(2, 1, 1, 3)
    found = Thresholded(Fixed(), -1, 1, 0.5)(x, scalar(0.5))
    expected = torch.tensor([[-1.0, 0.5, 1.0], [0.1, -0.5, 0.9]]).reshape(2, 1, 1, 3)
    torch.testing.assert_close(found, expected)


class Fixed(Denoiser):
    schedule = Linear()

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return x_t
