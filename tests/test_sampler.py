"""Samplers: the law they recover, their order, their cost, and that each image is its own."""

import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from analytic import PARTS, SCHEDULES, Gaussian, Mixture, image, scalar, silent, two_peaks
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.denoiser.evaluations import RowCount
from diffgen.errors import UsageError
from diffgen.sampler import Sampler, SeededNoise
from diffgen.sampler.base import posterior_variance
from diffgen.sampler.consistent import Consistent
from diffgen.sampler.ddim import DDIM
from diffgen.sampler.ddpm import DDPM
from diffgen.sampler.deis import DEIS
from diffgen.sampler.dpmpp_2m import DPMpp2M
from diffgen.sampler.dpmpp_2m_sde import DPMpp2MSDE
from diffgen.sampler.dpmpp_3m import DPMpp3M
from diffgen.sampler.euler import Euler
from diffgen.sampler.euler_maruyama import EulerMaruyama
from diffgen.sampler.heun import Heun
from diffgen.sampler.langevin import Langevin
from diffgen.sampler.noise import STARTS
from diffgen.sampler.pc import PC
from diffgen.sampler.rk45 import RK45
from diffgen.sampler.unipc import UniPC
from diffgen.schedule import Schedule
from diffgen.schedule.cosine import Cosine
from diffgen.schedule.edm import EDM
from diffgen.schedule.flow import Flow
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.linear import Linear
from diffgen.schedule.spacing import times

# A new sampler is a row here: itself, its order (None: it is random, or adaptive), and its
# evaluations an image in 12 steps.
SAMPLERS: dict[str, tuple[Sampler, int | None, int | None]] = {
    "ddim": (DDIM(), 1, 12),
    "ddim_eta_1": (DDIM(eta=1.0), None, 12),
    "ddpm_fixedsmall": (DDPM(), None, 12),
    "ddpm_fixedlarge": (DDPM("fixedlarge"), None, 12),
    "euler": (Euler(), 1, 12),
    "euler_churn": (Euler(churn=3.0), None, 12),
    "heun": (Heun(), 2, 23),
    "heun_churn": (Heun(churn=3.0), None, 23),
    "dpmpp_2m": (DPMpp2M(), 2, 12),
    "dpmpp_3m": (DPMpp3M(), 3, 12),
    "dpmpp_2m_sde": (DPMpp2MSDE(), None, 12),
    "unipc_1": (UniPC(order=1), 2, 12),
    "unipc_2": (UniPC(order=2), 3, 12),
    "unipc_3": (UniPC(order=3), 4, 12),
    "unipc_2_bh1": (UniPC(order=2, kernel="bh1"), 3, 12),
    "unipc_3_bh1": (UniPC(order=3, kernel="bh1"), 4, 12),
    "unipc_2_predictor": (UniPC(order=2, corrector=False), 2, 12),
    "unipc_3_predictor": (UniPC(order=3, corrector=False), 3, 12),
    "deis_2": (DEIS(order=2), 2, 12),
    "deis_3": (DEIS(order=3), 3, 12),
    "euler_maruyama": (EulerMaruyama(), None, 12),
    "pc": (PC(), None, 24),
    "langevin": (Langevin(inner=3), None, 37),
    "langevin_bare": (Langevin(inner=3, denoise=False), None, 36),
    "consistent": (Consistent(), None, 12),
    "rk45": (RK45(), None, None),
}
EVERY = pytest.mark.parametrize("name", SAMPLERS)
ORDERS = {name: (sampler, order) for name, (sampler, order, _) in SAMPLERS.items() if order}
ENDS = {"linear": 3.0, "ve": math.log(100)}


def errors(sampler: Sampler, denoiser: Mixture, time_points: Tensor) -> Tensor:
    """How far the quantiles PARTS of the mixture arrive from where they belong."""
    x = image(denoiser.quantile(PARTS, time_points[0]))
    found = sampler(denoiser, x, time_points, None, silent).flatten()
    return (found - denoiser.quantile(PARTS, time_points[-1])).abs()


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("name", [*ORDERS, "rk45"])
def test_the_law_of_the_mixture_is_recovered(name, schedule):
    """Every quantile arrives at t_min, in 40 steps; after that comes the denoiser's own image."""
    sampler, order, _ = SAMPLERS[name]
    time_points = times(schedule, *(("log_snr", 40) if order else ("ends", None)))[:-1]
    bound = {1: 0.12, 2: 0.05}.get(order or 4, 0.012)
    assert errors(sampler, two_peaks(schedule), time_points).max() < bound


@pytest.mark.parametrize("schedule", ["linear", "ve"])
@pytest.mark.parametrize("name", ORDERS)
def test_error_falls_with_the_order(name, schedule):
    """Even in log-SNR from t = 1 to little noise, never across the jump to none."""
    sampler, order = ORDERS[name]
    drowned, means = SCHEDULES[schedule], []
    start = float(drowned.log_snr(scalar(1)))
    for steps in (80, 320):
        log_snr = torch.linspace(start, ENDS[schedule], steps + 1, dtype=torch.float64)
        time_points = drowned.time(log_snr)
        means.append(errors(sampler, two_peaks(drowned), time_points).mean().item())
    assert math.log(means[0] / means[1], 4) == pytest.approx(order, abs=0.25)


@EVERY
def test_cost(name):
    """Rows of the network evaluated per image, as the sampler's paper counts them."""
    sampler, _, cost = SAMPLERS[name]
    denoiser, rows = two_peaks(Linear()), []
    denoiser.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    time_points = times(Linear(), sampler.spacing, 12 if cost else None)
    sampler(denoiser, torch.randn(5, 1, 1, 1).double(), time_points, None, silent)
    assert sum(rows) / 5 == cost or (cost is None and sum(rows) < 5 * 100)


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_heun_survives_a_first_step_from_nearly_no_signal(steps):
    """Cosine's sigma / alpha falls from 20,000 to single digits in it; the law is kept."""
    denoiser, time_points = Gaussian(Cosine(), 0.25), times(Cosine(), "trailing", steps)
    x = torch.randn(20_000, 1, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    images = Heun()(denoiser, x, time_points, None, silent)
    assert images.std().item() == pytest.approx(0.5, rel=0.15)


def seeded(images: range) -> tuple[SeededNoise, Tensor]:
    noise = SeededNoise(3, images)
    return noise, torch.zeros(len(images), 1, 3, 3)


@EVERY
@pytest.mark.parametrize("schedule", [Linear(), Geometric(sigma_max=5.0, levels=50)], ids=str)
def test_an_image_does_not_depend_on_its_company(name, schedule):
    """The same bytes alone, in sevens and all together."""
    sampler, _, cost = SAMPLERS[name]
    time_points = times(schedule, sampler.spacing, 8 if cost else None)

    def drawn(images: range) -> Tensor:
        noise, like = seeded(images)
        x = STARTS[sampler.start](schedule, time_points[0], like, noise, (-1.0, 1.0))
        return sampler(Gaussian(schedule, 0.25), x, time_points, None, noise)

    together = drawn(range(14))
    assert (torch.cat([drawn(range(0, 7)), drawn(range(7, 14))]) == together).all()
    assert (drawn(range(9, 10)) == together[9]).all()
    assert together.unique(dim=0).shape == together.shape


@EVERY
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_every_sampler_runs_on_every_schedule(name, schedule):
    """In few steps, from pure noise too, float32 as it came, and to the right class."""
    sampler, _, cost = SAMPLERS[name]
    means = torch.tensor([-1.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1).expand(2, 1, 3, 3)
    denoiser, label = Mixture(schedule, means, 0.01, [0.5, 0.5]), torch.arange(6) % 2
    time_points = times(schedule, sampler.spacing, 10 if cost else None)
    noise, like = seeded(range(6))
    x = STARTS[sampler.start](schedule, time_points[0], like, noise, (-1.0, 1.0))
    images = sampler(denoiser, x, time_points, label, noise)
    assert images.dtype == torch.float32
    assert (images.mean(dim=(1, 2, 3)).sign() == 2 * label - 1).all()


def test_noise_is_normal_and_its_own():
    noise, like = seeded(range(4000))
    first, second = noise(like), noise(like)
    for draw in (first, second):
        assert abs(draw.mean()) < 4 / draw.numel() ** 0.5
        assert draw.var().item() == pytest.approx(1, abs=4 * (2 / draw.numel()) ** 0.5)
    assert abs((first * second).mean()) < 4 / first.numel() ** 0.5
    assert abs((first[1:] * first[:-1]).mean()) < 4 / first.numel() ** 0.5
    assert (SeededNoise(4, range(1))(like[:1]) != first[0]).all()


def test_starts():
    noise, like = seeded(range(2000))
    ladder = Geometric(sigma_max=50.0, levels=232)
    flat = STARTS["uniform"](ladder, scalar(1), like, noise, (-1.0, 1.0))
    assert -1 <= flat.min() < -0.99 < 0.99 < flat.max() <= 1
    assert flat.var().item() == pytest.approx(1 / 3, rel=0.02)
    prior = STARTS["prior"](ladder, scalar(1), like, noise, (-1.0, 1.0))
    assert prior.std().item() == pytest.approx(50, rel=0.02)


class Blind(Denoiser):
    """Of black images alone, by a network that is told nothing and takes the state for noise."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        size = x_t.square().flatten(1).mean(1).sqrt()
        return x_t - self.schedule.sigma(t) * x_t / size[:, None, None, None]


def test_a_shell_leaves_no_noise_where_the_level_is_not_told():
    """What a start has too much of stays to the end, undiminished; a shell has none."""
    ladder, images = Geometric(sigma_max=50.0, levels=232), range(50)
    time_points, left = times(ladder, "linspace", 40), {}
    for name in ("prior", "shell"):
        noise, like = seeded(images)
        x = STARTS[name](ladder, time_points[0], like, noise, (-1.0, 1.0)).double()
        x0 = DDIM()(Blind(ladder), x, time_points, None, noise)
        left[name] = x0.square().flatten(1).mean(1).sqrt()
        excess = x.square().flatten(1).mean(1).sqrt() - 50
        much = excess > 0.1
        torch.testing.assert_close(left[name][much], excess[much])
    assert left["prior"].max() > 5
    assert left["shell"].max() < 1e-4


def states(sampler: Sampler, denoiser: Denoiser, time_points: Tensor) -> Iterator[Tensor]:
    noise = SeededNoise(0, range(3))
    x = noise(torch.zeros(3, 1, 2, 2, dtype=torch.float64))
    yield from sampler.trajectory(denoiser, x, time_points, None, noise)


def same(one: Iterator[Tensor], other: Iterator[Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


IDENTITIES = {
    "ddim_eta_1_is_fixedsmall": (DDIM(eta=1.0), DDPM("fixedsmall")),
    "ddim_is_euler": (DDIM(), Euler()),
    "deis_1_is_ddim": (DEIS(order=1), DDIM()),
    "unipc_1_predictor_is_ddim": (UniPC(order=1, corrector=False), DDIM()),
    "unipc_2_predictor_is_2m": (UniPC(order=2, corrector=False), DPMpp2M()),
    "sde_without_noise_is_2m": (DPMpp2MSDE(eta=0.0), DPMpp2M()),
    "no_correctors_is_ancestral": (PC(correctors=0), DDPM("fixedsmall")),
    "paper_is_half_of_code": (
        Langevin(epsilon=2e-5, convention="paper"),
        Langevin(epsilon=1e-5, convention="code"),
    ),
}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "geometric", "edm"])
@pytest.mark.parametrize(("one", "other"), IDENTITIES.values(), ids=IDENTITIES)
def test_identities(one, other, schedule):
    denoiser = two_peaks_of_four(SCHEDULES[schedule])
    time_points = times(SCHEDULES[schedule], "log_snr", 12)
    if "Langevin" in str(one):
        lowest = SCHEDULES[schedule].sigma(time_points[-2]).item() ** 2
        one = Langevin(epsilon=0.2 * lowest, convention="paper")
        other = Langevin(epsilon=0.1 * lowest, convention="code")
    same(states(one, denoiser, time_points), states(other, denoiser, time_points))


def two_peaks_of_four(schedule: Schedule) -> Mixture:
    means = torch.tensor([[-0.6, 0.1, 0.2, 0.0], [0.4, 0.5, -0.3, 0.2]]).reshape(2, 1, 2, 2)
    return Mixture(schedule, means.double(), 0.04, [0.3, 0.7])


def test_consistent_annealing_on_even_steps_is_ancestral():
    """1 - e = (u_s / u_t)^2 leaves the posterior's noise; only the last step is its own."""
    ladder = Geometric(sigma_max=5.0, levels=50)
    time_points = times(ladder, "log_snr", 20)
    same(
        states(Consistent(), two_peaks_of_four(ladder), time_points),
        states(DDPM("fixedsmall"), two_peaks_of_four(ladder), time_points),
    )


def test_edm_algorithm_2():
    """Karras et al. 2022, algorithm 2 as printed, with churn in a window and scaled noise."""
    denoiser, schedule = two_peaks_of_four(EDM()), EDM()
    time_points = times(schedule, "karras", 12)
    sigmas, noise = [*schedule.sigma(time_points[:-1]).tolist(), 0.0], SeededNoise(0, range(3))
    x = noise(torch.zeros(3, 1, 2, 2, dtype=torch.float64))

    def slope(x: Tensor, sigma: float) -> Tensor:
        return (x - denoiser(x, schedule.time(-scalar(sigma).log()))) / sigma

    for here, there in pairwise(sigmas):
        gamma = min(4 / 12, math.sqrt(2) - 1) if 0.05 <= here <= 50 else 0.0
        hat = here * (1 + gamma)
        if gamma:
            x = x + math.sqrt(hat**2 - here**2) * 1.007 * noise(x)
        d = slope(x, hat)
        ahead = x + (there - hat) * d
        x = x + (there - hat) * (d + slope(ahead, there)) / 2 if there else ahead
    churned = Heun(churn=4.0, churn_min=0.05, churn_max=50.0, churn_scale=1.007)
    *_, found = states(churned, denoiser, time_points)
    torch.testing.assert_close(found, x, atol=1e-8, rtol=1e-8)


ONE_STEP = {  # those that keep nothing from step to step
    **{f"ddpm_{v}": DDPM(v) for v in ("fixedsmall", "fixedlarge", "auto")},
    "ddim_eta_1": DDIM(eta=1.0),
    "euler_churn": Euler(churn=3.0),
    "heun_churn": Heun(churn=3.0),
    "euler_maruyama": EulerMaruyama(),
    "pc": PC(),
    "langevin": Langevin(inner=2),
    "consistent": Consistent(),
}


@pytest.mark.parametrize("sampler", ONE_STEP.values(), ids=ONE_STEP)
def test_a_run_in_parts_is_the_whole_run(sampler):
    """Tasks that go a part of the way, or step by step, take the steps of the whole way."""
    ladder = Geometric(sigma_max=5.0, levels=20)  # of which auto takes 20 steps for many
    time_points, noise = times(ladder, "linspace", 20), SeededNoise(0, range(3))
    denoiser = two_peaks_of_four(ladder)
    part = sampler.with_fixed_step(ladder, time_points)
    state = noise(torch.zeros(3, 1, 2, 2, dtype=torch.float64))
    for k, whole in enumerate(states(sampler, denoiser, time_points)):
        state = part(denoiser, state, time_points[k : k + 2], None, noise)
        torch.testing.assert_close(state, whole, rtol=1e-9, atol=1e-9)


def test_heun_on_a_flow_is_that_of_its_papers():
    """The mean of two velocities eps - x0, from pure noise on; 2 steps - 1 evaluations."""
    denoiser = RowCount(two_peaks_of_four(Flow()))
    denoiser.schedule = Flow()

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return (x - denoiser(x, t, None)) / t

    time_points, noise = times(Flow(), "trailing", 12), SeededNoise(0, range(3))
    x = noise(torch.zeros(3, 1, 2, 2, dtype=torch.float64))
    for t, s in pairwise(time_points):
        v = velocity(x, t)
        ahead = x + (s - t) * v
        x = x + (s - t) / 2 * (v + velocity(ahead, s)) if s > 0 else ahead
    rows = denoiser.rows
    *_, found = states(Heun(), denoiser, time_points)
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)
    assert rows == denoiser.rows - rows == 3 * 23


def test_churn_never_leaves_the_schedule():
    """At t = 1 there is no higher level that a network knows."""
    seen = []
    denoiser = two_peaks(Linear())
    denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    Heun(churn=100.0)(denoiser, image(PARTS), times(Linear(), "karras", 5), None, silent)
    assert max(seen) == 1


REFUSED = {
    "diverging": (Langevin(epsilon=2.1e-4), "0, 0.0002"),
    "diverging_paper": (Langevin(epsilon=4.1e-4, convention="paper"), "0, 0.0004"),
    "backward": (Langevin(epsilon=-1e-5), "auto"),
    "too_small_a_move": (Consistent(epsilon=1e-6), "more steps"),
    "more_than_all": (Consistent(epsilon=2e-4), "more steps"),
}


@pytest.mark.parametrize(("sampler", "words"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_the_bound(sampler, words):
    ladder = Geometric(sigma_max=5.0, levels=50)
    with pytest.raises(UsageError, match=words):
        sampler(two_peaks(ladder), image(PARTS), times(ladder, "linspace", 20), None, silent)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DDIM(eta=1.5), "sampler.eta=1.5"),
        (lambda: DPMpp2MSDE(eta=-0.1), "sampler.eta"),
        (lambda: Heun(churn=-1.0), "sampler.churn"),
        (lambda: PC(correctors=-1), "sampler.correctors"),
        (lambda: Langevin(inner=0), "sampler.inner=0"),
        (lambda: RK45(tolerance=0.0), "sampler.tolerance"),
    ],
    ids=["ddim", "sde", "churn", "pc", "langevin", "rk45"],
)
def test_settings_out_of_range_are_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_large_variance_wants_many_steps():
    """A warning where it is asked for in few; auto takes the smaller one there."""
    denoiser = two_peaks_of_four(Linear())
    few, many = (times(Linear(), "trailing", steps) for steps in (499, 500))
    same(states(DDPM("auto"), denoiser, few), states(DDPM("fixedsmall"), denoiser, few))
    same(states(DDPM("auto"), denoiser, many), states(DDPM("fixedlarge"), denoiser, many))
    for sampler in (DDPM("fixedlarge"), PC(variance="fixedlarge")):
        assert "fixedlarge leaves noise in 499 steps" in str(sampler.warning(Linear(), 499))
        assert sampler.warning(Linear(), 500) is None
        assert sampler.warning(Linear(levels=100), 50) is None
    for sampler in (DDPM(), DDPM("auto"), PC(), DDIM()):
        assert sampler.warning(Linear(), 2) is None


def test_one_level_tells_no_ratio():
    with pytest.raises(UsageError, match="steps=2"):
        Langevin()(two_peaks(Linear()), image(PARTS), times(Linear(), "linspace", 1), None, silent)


def test_adaptive_steps_are_each_images_own():
    """Where the tolerance and not the longest step decides."""
    denoiser, time_points = two_peaks(Linear()), times(Linear(), "ends", None)
    x, sampler = image(denoiser.quantile(PARTS[::12], time_points[0])), RK45(tolerance=1e-8)
    together = sampler(denoiser, x, time_points, None, silent)
    alone = sampler(denoiser, x[2:3], time_points, None, silent)
    torch.testing.assert_close(alone, together[2:3], atol=1e-12, rtol=0)


def test_adaptive_steps_notice_a_broken_network():
    denoiser = two_peaks(Linear())
    denoiser.register_forward_hook(lambda module, inputs, x0: x0 * math.nan)
    with pytest.raises(FloatingPointError, match="finite"):
        RK45()(denoiser, image(PARTS), times(Linear(), "ends", None), None, silent)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_ddim_is_image_direction_and_noise(eta, zero_snr):
    """The sum equals coefficients of x_t and x0 to 1e-12, at pure noise too (alpha_t = 0)."""
    schedule = Linear(levels=100, zero_snr=zero_snr)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x0, z = Gaussian(schedule, 0.3), torch.ones_like
    for t, s in ((1.0, 0.8), (1.0, 0.99), (0.5, 0.1), (0.1, 0.01), (0.01, 0.0)):
        times = torch.tensor([t, s], dtype=torch.float64)
        (alpha_t, alpha_s), (sigma_t, sigma_s) = schedule.alpha(times), schedule.sigma(times)
        std = eta * posterior_variance(schedule, times[0], times[1]).clamp(min=0).sqrt()
        coef_x = (sigma_s**2 - std**2).clamp(min=0).sqrt() / sigma_t
        wanted = coef_x * x + (alpha_s - coef_x * alpha_t) * x0(x, times[0]) + std * z(x)
        found = DDIM(eta=eta)(x0, x, times, None, z)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


class Overflowing(Denoiser):
    """A denoiser whose estimate is NaN from t = 0.5 down."""

    schedule = Linear()

    def forward(self, x_t, t, label=None):
        return x_t * (torch.nan if t <= 0.5 else 0.1)


@pytest.mark.parametrize("sampler", [DDIM(), DDPM(), Heun(), DPMpp2M()], ids=str)
def test_images_that_are_not_finite_are_refused_with_the_step(sampler):
    """Of 4 steps at t = 1, 0.75, 0.5 and 0.25 a network of first order fails in the third."""
    x, noise = torch.randn(2, 1, 4, 4), SeededNoise(0, range(2))
    with pytest.raises(FloatingPointError, match=r"after step [23] of 4, at t = 0\.(5|25)"):
        sampler(Overflowing(), x, times(Linear(), "trailing", 4), None, noise)
