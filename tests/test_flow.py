"""Flow matching: the velocity of exact laws, straight steps, its ODE, loss, times and shift."""

import math
from itertools import pairwise

import pytest
import torch
from analytic import Gaussian, scalar, silent, two_peaks
from running import settings
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from diffgen.config.recipe import recipe_of
from diffgen.denoiser import Preconditioned
from diffgen.denoiser.noise_input import level, log_sigma
from diffgen.denoiser.prediction import X0
from diffgen.denoiser.prediction import Flow as Velocity
from diffgen.errors import UsageError
from diffgen.sampler.ddim import DDIM
from diffgen.sampler.euler import Euler
from diffgen.sampler.heun import Heun
from diffgen.sampler.rk45 import RK45
from diffgen.schedule.base import match
from diffgen.schedule.flow import Flow
from diffgen.schedule.linear import Linear
from diffgen.schedule.spacing import times
from diffgen.training.loss import Loss
from diffgen.training.random_numbers import RandomNumbers
from diffgen.training.times import LogitNormal, LogNormal
from diffgen.training.weighting import Flow as Weight

T = torch.tensor([0.001, 0.2, 0.7, 1.0], dtype=torch.float64)
MEAN, VARIANCE = 0.2, 0.3


def noisy() -> Tensor:
    return torch.randn(4, 1, 2, 3, generator=torch.Generator().manual_seed(1)).double()


def path_velocity(x: Tensor, s: Tensor) -> Tensor:
    """dx/ds of x = (1 - s) m + sqrt((1 - s)^2 v + s^2) z, the law's own path at fixed z."""
    spread = (1 - s) ** 2 * VARIANCE + s**2
    return -MEAN + (s - (1 - s) * VARIANCE) / spread * (x - (1 - s) * MEAN)


class Exact(nn.Module):
    """A network that gives the velocity of a Gaussian law where flow matching would ask it."""

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None) -> Tensor:
        return path_velocity(x, match(c_noise, x))


def test_the_velocity_of_a_gaussian_is_its_closed_form():
    """E[eps - x0 | x_t], also where no image and where next to no noise is left."""
    exact, x = Gaussian(Flow(), VARIANCE, MEAN), noisy()
    torch.testing.assert_close(
        exact.eps(x, T) - exact(x, T), path_velocity(x, match(T, x)), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("schedule", [Flow(), Flow(shift=3.0), Linear()], ids=str)
def test_a_network_of_the_velocity_is_that_denoiser(schedule):
    """On any schedule, which is the straight path at s = sigma / (alpha + sigma)."""

    def s(schedule, t):
        return schedule.sigma(t) / (schedule.alpha(t) + schedule.sigma(t))

    found = Preconditioned(Exact(), schedule, Velocity(), s)(noisy(), T)
    expected = Gaussian(schedule, VARIANCE, MEAN)(noisy(), T)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("sampler", [Euler(), DDIM()], ids=["euler", "ddim"])
def test_euler_along_the_path_is_ddim(sampler, shift):
    schedule = Flow(shift=shift)
    denoiser, time_points = two_peaks(schedule), times(schedule, "trailing", 12)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(9, 1, 1, 1)
    straight = x
    for t, s in pairwise(time_points):
        velocity = denoiser.eps(straight, t) - denoiser(straight, t)
        straight = straight + (schedule.sigma(s) - schedule.sigma(t)) * velocity
    found = sampler(denoiser, x, time_points, None, silent)
    torch.testing.assert_close(found, straight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_ode_is_that_of_the_velocity(shift):
    """Against another program's Runge-Kutta of order 8 on dx/ds = velocity, to t_min."""
    schedule = Flow(shift=shift)
    denoiser = two_peaks(schedule)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(9, 1, 1, 1)

    def field(s: float, flat):
        t = schedule.time(scalar(math.log((1 - s) / s)) if s < 1 else scalar(-math.inf))
        state = torch.from_numpy(flat).reshape(x.shape)
        return (denoiser.eps(state, t) - denoiser(state, t)).flatten().numpy()

    end = schedule.sigma(scalar(schedule.t_min)).item()
    solved = solve_ivp(field, (1.0, end), x.flatten().numpy(), "DOP853", rtol=1e-10, atol=1e-12)
    expected = torch.from_numpy(solved.y[:, -1]).reshape(x.shape)
    to_t_min = times(schedule, "ends", None)[:-1]
    found = RK45(tolerance=1e-8)(denoiser, x, to_t_min, None, silent)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    found = Heun()(denoiser, x, times(schedule, "log_snr", 200)[:-1], None, silent)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_shift_multiplies_sigma_over_alpha():
    """Esser et al. 2024, equation 23: t_m = a t_n / (1 + (a - 1) t_n)."""
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    shifted = Flow(shift=3.0)
    torch.testing.assert_close(shifted.sigma(t), 3 * t / (1 + 2 * t))
    torch.testing.assert_close(shifted.log_snr(t), Flow().log_snr(t) - math.log(3))
    assert (Flow().alpha(scalar(1.0)), Flow().sigma(scalar(1.0))) == (0, 1)


def test_karras_steps_are_those_of_flow_matchings_code():
    """u / (1 + u) at EDM's u from 80 to 0.002, but that the first is at no image at all."""
    least = 0.002 / 1.002
    found = times(Flow(t_min=least), "karras", 25)
    u = torch.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 25, dtype=torch.float64) ** 7
    torch.testing.assert_close(found[1:-1], (u / (1 + u))[1:], rtol=1e-9, atol=0)
    assert found[0] == 1
    assert found[-1] == 0


@pytest.mark.parametrize("kind", ["karras", "log_snr"])
@pytest.mark.parametrize("schedule", [Flow(), Linear(zero_snr=True)], ids=["flow", "zero_snr"])
def test_no_step_is_spent_where_there_is_nothing_to_see(kind, schedule):
    u = (-schedule.log_snr(times(schedule, kind, 20)[1:-1])).exp()
    assert u[0] < 80
    assert (u > 20).sum() <= 4


@pytest.mark.parametrize("given", [{"shift": 0.0}, {"shift": math.inf}, {"t_min": 0.0}])
def test_refusals(given):
    with pytest.raises(UsageError, match=r"schedule\.shift above 0 and 0 < schedule\.t_min < 1"):
        Flow(**given)


def test_a_prediction_that_says_nothing_at_the_end_is_refused():
    plain = settings("train", "model=flow")
    with pytest.raises(UsageError, match=r"schedule=flow leaves .* take prediction=v, flow or x0"):
        recipe_of({**plain, "prediction": {"name": "eps"}}).check()


class Wave(nn.Module):
    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None) -> Tensor:
        return torch.sin(3 * x) + match(c_noise, x)


def evenly(count: int) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def loss_of(prediction, weighting=None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Errors, clean images, noisy ones and noise of one step at all kinds of times."""
    denoiser = Preconditioned(Wave(), Flow(shift=2.0), prediction, level)
    loss = Loss(denoiser, lambda u, schedule: T.flip(0), weighting or Weight())
    x0, random = noisy() / 2, RandomNumbers(0, 0, 4, torch.arange(4))
    errors, t = loss(x0, None, random)
    alpha, sigma = denoiser.schedule.at(t, x0)
    eps = random.normal(x0)
    return errors, x0, alpha * x0 + sigma * eps, eps


def test_the_loss_is_the_squared_error_of_the_velocity():
    errors, x0, x_t, eps = loss_of(Velocity())
    velocity = torch.sin(3 * x_t) + match(999 * T.flip(0), x0)
    expected = (velocity - (eps - x0)).square().mean((1, 2, 3))
    torch.testing.assert_close(errors, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_a_network_of_the_image_learns_the_same_velocity(floor):
    """Both velocities are (x_t - x0) / s, as Li and He 2025 take them; s is at least `floor`."""
    errors, x0, x_t, _ = loss_of(X0(), Weight(floor))
    s = Flow(shift=2.0).sigma(T.flip(0))
    seen = x_t / match(torch.hypot(1 - s, s), x0)
    image = torch.sin(3 * seen) + match(999 * T.flip(0), x0)
    below = match(s.clamp(min=floor), x0)
    velocities = (x_t - image) / below, (x_t - x0) / below
    expected = (velocities[0] - velocities[1]).square().mean((1, 2, 3))
    torch.testing.assert_close(errors, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-1.2, 1.2)])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_logit_normal_times(mean, std, shift):
    """Quantiles of the logistic of a normal; on this path it is EDM's law, moved by the shift."""
    u, schedule = evenly(1001), Flow(shift=shift)
    t = LogitNormal(mean, std)(u, schedule)
    assert t[500].item() == pytest.approx(1 / (1 + math.exp(-mean)))
    logit = (t / (1 - t)).log()
    assert (logit.mean().item(), logit.std().item()) == pytest.approx((mean, std), abs=0.01)
    other = LogNormal(mean + math.log(shift), std)(u, schedule)
    torch.testing.assert_close(t, other, rtol=0, atol=1e-9)
    ends = LogitNormal(mean, std)(torch.tensor([0.0, 1.0], dtype=torch.float64), schedule)
    assert schedule.t_min <= ends.min() < ends.max() <= 1


def test_what_the_network_is_given_is_finite_at_both_ends():
    ends = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    for noise_input in (level, log_sigma):
        assert noise_input(Flow(), ends).isfinite().all()
