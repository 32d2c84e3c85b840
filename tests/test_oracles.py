"""Samplers that are random, against the recursions their papers imply for a Gaussian.

With the exact denoiser of N(MEAN, V) every state stays normal, and its mean m and variance follow
from the paper's formula, written out here on numbers. Where a sampler is biased by design
(Langevin dynamics, ancestral sampling in few steps) so is its recursion.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from analytic import SCHEDULES, Gaussian, image, law, scalar, silent

from diffgen.denoiser import Clipped
from diffgen.sampler import SeededNoise
from diffgen.sampler.consistent import Consistent
from diffgen.sampler.ddim import DDIM
from diffgen.sampler.ddpm import DDPM
from diffgen.sampler.dpmpp_2m_sde import DPMpp2MSDE
from diffgen.sampler.euler import Euler
from diffgen.sampler.euler_maruyama import EulerMaruyama
from diffgen.sampler.heun import Heun
from diffgen.sampler.langevin import Langevin, best_rate, variance_ratio
from diffgen.sampler.pc import PC
from diffgen.schedule import Schedule
from diffgen.schedule.edm import EDM
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.linear import Linear
from diffgen.schedule.spacing import times

MEAN, V = 0.2, 0.25
LADDER = Geometric(sigma_max=5.0, levels=40)
STEEPEST = float(Linear().sigma(scalar(1.0)) / Linear().alpha(scalar(1.0)))
Law = tuple[float, float]
Move = Callable[["Pair", Law], Law]


class Pair:
    """Two neighbouring times: alpha-bar a, sigma s at t, a_s, s_s after it; x0 = g x + c at t."""

    def __init__(self, schedule: Schedule, t: torch.Tensor, s: torch.Tensor):
        self.a, self.a_s = (float(schedule.alpha(f)) ** 2 for f in (t, s))
        self.s, self.s_s = (float(schedule.sigma(f)) for f in (t, s))
        self.P = self.a * V + self.s**2
        self.g = self.a**0.5 * V / self.P
        self.c = MEAN * (1 - self.g * self.a**0.5)
        self.last = float(s) == 0

    def affine(self, of_x: float, of_x0: float, noise: float, now: Law) -> Law:
        """The law of of_x x + of_x0 x0 + sqrt(noise) z."""
        gain, (m, v) = of_x + of_x0 * self.g, now
        return gain * m + of_x0 * self.c, gain**2 * v + noise


def ancestral(p: Pair, now: Law, large: bool = False) -> Law:
    """Ho et al. 2020, equation 7 and section 3.2, in alpha-bar and beta."""
    beta = 1 - p.a / p.a_s
    of_x0 = p.a_s**0.5 * beta / (1 - p.a)
    of_x = (1 - beta) ** 0.5 * (1 - p.a_s) / (1 - p.a)
    small = beta * (1 - p.a_s) / (1 - p.a)
    return p.affine(of_x, of_x0, 0 if p.last else beta if large else small, now)


def large(p: Pair, now: Law) -> Law:
    return ancestral(p, now, large=True)


def ve_ancestral(p: Pair, now: Law) -> Law:
    """Song et al. 2021, equation 47: x + (s^2 - s'^2) score + sqrt(s'^2 (s^2 - s'^2) / s^2) z."""
    step = p.s**2 - p.s_s**2
    return p.affine(1 - step / p.s**2, step / p.s**2, p.s_s**2 * step / p.s**2, now)


def reverse_diffusion(p: Pair, now: Law) -> Law:
    """Song et al. 2021, appendix E: the same mean, noise sqrt(s^2 - s'^2); none at the end."""
    step = p.s**2 - p.s_s**2
    return p.affine(1 - step / p.s**2, step / p.s**2, 0 if p.last else step, now)


def ddim(eta: float) -> Move:
    """Song et al. 2021, equations 12 and 16: eta scales the standard deviation."""

    def move(p: Pair, now: Law) -> Law:
        fresh = eta * ((1 - p.a_s) / (1 - p.a)) ** 0.5 * (1 - p.a / p.a_s) ** 0.5
        of_eps = (1 - p.a_s - fresh**2) ** 0.5
        of_x = of_eps / (1 - p.a) ** 0.5
        return p.affine(of_x, p.a_s**0.5 - of_x * p.a**0.5, fresh**2, now)

    return move


def euler_maruyama(p: Pair, now: Law) -> Law:
    """Song et al. 2021, equation 6; g^2 dt = d sigma^2 - 2 sigma^2 d ln alpha, by trapezoids."""
    if p.last:
        return p.affine(0, 1, 0, now)
    pull = (math.log(p.a_s) - math.log(p.a)) / 2
    spread = p.s**2 * (1 + pull) - p.s_s**2 * (1 - pull)
    of_score = spread / p.s**2
    return p.affine(1 + pull - of_score, of_score * p.a**0.5, spread, now)


def churned(churn: float, top: float, corrected: bool) -> Move:
    """Karras et al. 2022, algorithm 2 in 10 steps on x / alpha, with or without lines 6 to 8.

    `top` is the largest sigma / alpha there is.
    """

    def slope(u: float) -> tuple[float, float]:
        """dy/du = first y + second."""
        rest = u / (V + u**2)
        return rest, -rest * MEAN

    def move(p: Pair, now: Law) -> Law:
        u, below = p.s / p.a**0.5, p.s_s / p.a_s**0.5
        hat = min(u * (1 + min(churn / 10, 2**0.5 - 1)), top)
        m, v = now[0] / p.a**0.5, now[1] / p.a + hat**2 - u**2
        (of_y, more), step = slope(hat), below - hat
        gain, shift = 1 + step * of_y, step * more
        if corrected and not p.last:
            next_of_y, next_more = slope(below)
            gain, shift = (
                1 + step * (of_y + next_of_y * gain) / 2,
                step * (more + next_more + next_of_y * shift) / 2,
            )
        return p.a_s**0.5 * (gain * m + shift), p.a_s * gain**2 * v

    return move


def consistent(rate: float) -> Move:
    """Jolicoeur-Martineau et al. 2021, algorithm 2: rate = epsilon / sigma_L^2; then the image."""

    def move(p: Pair, now: Law) -> Law:
        if p.last:
            return p.affine(0, 1, 0, now)
        gamma = p.s_s / p.s
        beta = (1 - ((1 - rate) / gamma) ** 2) ** 0.5
        return p.affine(1 - rate, rate, (beta * p.s_s) ** 2, now)

    return move


RECURSIONS = {
    "fixedsmall_vp": (DDPM("fixedsmall"), "linear", ancestral),
    "fixedlarge_vp": (DDPM("fixedlarge"), "linear", large),
    "fixedsmall_cosine": (DDPM("fixedsmall"), "cosine", ancestral),
    "fixedsmall_ve_is_ancestral": (DDPM("fixedsmall"), LADDER, ve_ancestral),
    "fixedlarge_ve_is_reverse_diffusion": (DDPM("fixedlarge"), LADDER, reverse_diffusion),
    "euler_maruyama_ve": (EulerMaruyama(), LADDER, reverse_diffusion),
    "ddim_0": (DDIM(), "linear", ddim(0.0)),
    "ddim_half": (DDIM(eta=0.5), "linear", ddim(0.5)),
    "ddim_1": (DDIM(eta=1.0), "linear", ddim(1.0)),
    "euler_maruyama_vp": (EulerMaruyama(), "linear", euler_maruyama),
    "euler_maruyama_cosine": (EulerMaruyama(), "cosine", euler_maruyama),
    "euler_churn": (Euler(churn=3.0), LADDER, churned(3.0, 5.0, corrected=False)),
    "euler_churn_vp": (Euler(churn=3.0), "linear", churned(3.0, STEEPEST, corrected=False)),
    "heun_churn": (Heun(churn=3.0), LADDER, churned(3.0, 5.0, corrected=True)),
    "heun_churn_vp": (Heun(churn=3.0), "linear", churned(3.0, STEEPEST, corrected=True)),
    "consistent": (Consistent(epsilon=0.6e-4), LADDER, consistent(0.6)),
}


@pytest.mark.parametrize(("sampler", "where", "move"), RECURSIONS.values(), ids=RECURSIONS)
def test_gaussian_recursion(sampler, where, move):
    """Ten steps, mean and variance to 1e-10."""
    schedule = SCHEDULES[where] if isinstance(where, str) else where
    time_points = times(schedule, "log_snr", 10)
    now = 0.0, float(schedule.sigma(time_points[0])) ** 2
    found = law(sampler, Gaussian(schedule, V, MEAN), time_points, now[1])
    for t, s in pairwise(time_points):
        now = move(Pair(schedule, t, s), now)
    assert found == pytest.approx(now, rel=1e-10)


@pytest.mark.parametrize("where", ["linear", "cosine", "ve"])
def test_recursion_with_a_memory(where):
    """SDE-DPM-Solver++(2M), Lu et al. 2022b, section 4.4: x and the last x0 are jointly normal."""
    schedule = SCHEDULES[where]
    time_points = times(schedule, "log_snr", 10)
    first = float(schedule.sigma(time_points[0])) ** 2
    mean, covariance, last = np.zeros(2), np.diag([first, 0.0]), None
    for t, s in pairwise(time_points):
        p = Pair(schedule, t, s)
        if p.last:
            expected = p.affine(0, 1, 0, (mean[0], covariance[0, 0]))
            break
        h = math.log(p.s / p.s_s) + math.log(p.a_s / p.a) / 2
        pulled = p.a_s**0.5 * (1 - math.exp(-2 * h))
        newer = pulled if last is None else pulled * (1 + h / last / 2)
        older = pulled - newer
        kept = p.s_s / p.s * math.exp(-h)
        ahead = np.array([[kept + newer * p.g, older], [p.g, 0]])
        mean = ahead @ mean + np.array([newer * p.c, p.c])
        covariance = ahead @ covariance @ ahead.T
        covariance[0, 0] += p.s_s**2 * (1 - math.exp(-2 * h))
        last = h
    found = law(DPMpp2MSDE(), Gaussian(schedule, V, MEAN), time_points, first)
    assert found == pytest.approx(expected, rel=1e-10)


def langevin(
    schedule: Schedule, time_points: torch.Tensor, rate: float, inner: int
) -> Iterator[Law]:
    """(1 - a / P)^2 V + 2 a at each move, P = alpha^2 s^2 + sigma^2, then the mean of x0."""
    m, v = 0.0, float(schedule.sigma(time_points[0])) ** 2
    for t, s in pairwise(time_points):
        p = Pair(schedule, t, s)
        a = rate * p.s**2
        for _ in range(inner):
            m, v = m + a / p.P * (p.a**0.5 * MEAN - m), (1 - a / p.P) ** 2 * v + 2 * a
        yield p.affine(0, 1, 0, (m, v)) if p.last else (m, v)


LADDERS = {"ve": LADDER, "vp": Linear(), "cosine": SCHEDULES["cosine"]}


@pytest.mark.parametrize("schedule", LADDERS.values(), ids=LADDERS)
@pytest.mark.parametrize(("steps", "spacing"), [(40, "linspace"), (10, "trailing")])
def test_langevin_recursion(schedule, steps, spacing):
    """Step sizes scale with variances; sigma_L is the lowest trained level, visited or not."""
    time_points = times(schedule, spacing, steps)
    lowest = float(schedule.sigma(scalar(schedule.t_min))) ** 2
    found = law(
        Langevin(epsilon=0.3 * lowest, inner=4),
        Gaussian(schedule, V, MEAN),
        time_points,
        float(schedule.sigma(time_points[0])) ** 2,
    )
    *_, expected = langevin(schedule, time_points, 0.3, 4)
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("epsilon", "lowest", "printed"),
    [(2e-5, 1e-4, 1.111), (6.2e-6, 1e-4, 1.032), (3.3e-6, 1e-4, 1.017), (4.9e-6, 1e-4, 1.025)],
    ids=["ncsn", "cifar10", "celeba", "church"],
)
def test_a_level_settles_at_its_own_variance(epsilon, lowest, printed):
    """On noise alone the variance settles at sigma^2 / (1 - e' / 2), e' = epsilon / sigma_L^2."""
    ladder = Geometric(sigma_max=1.0)
    long = Langevin(epsilon=epsilon, inner=600, denoise=False)
    time_points = torch.tensor([0.5, 0.0], dtype=torch.float64)
    _, found = law(long, Gaussian(ladder, 0.0), time_points, 1.0)
    level = float(ladder.sigma(time_points[0])) ** 2
    assert found / level == pytest.approx(1 / (1 - epsilon / lowest / 2), rel=1e-6)
    assert found / level == pytest.approx(printed, abs=6e-4)


def test_langevin_bias_falls_with_the_levels():
    """By the recursion a deviation of 0.5 comes out larger, most where variance is preserved."""
    found = {}
    for name, schedule in (("vp", Linear()), ("ve", Geometric(sigma_max=50.0, levels=160))):
        for steps in (40, 160):
            time_points = times(schedule, "linspace", steps)
            rate = Langevin(inner=30).rate(schedule, time_points)
            *_, (_, v) = langevin(schedule, time_points, rate, 30)
            found[name, steps] = v**0.5
    assert 0.5 < found["vp", 160] < found["vp", 40] < 0.58
    assert 0.499 < found["ve", 160] < found["ve", 40] < 0.54
    assert found["ve", 160] < found["vp", 160]


def printed(name: str) -> Iterator[tuple[int, int, float | None, float]]:
    """Levels, moves, step over sigma^2 and deviation of each cell of a table in the docs."""
    text = Path(__file__).parents[1].joinpath("docs/langevin.md").read_text()
    head, _, *rows = text[text.index(f"| {name}") :].split("\n\n")[0].splitlines()
    for row in rows:
        levels, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        for column, cell in zip(head.strip("|").split("|")[1:], cells, strict=True):
            moves, step = column.split(" moves, ")
            yield int(levels), int(moves), None if "auto" in step else float(step), float(cell)


@pytest.mark.parametrize("name", ["variance preserving", "variance exploding"])
def test_the_bias_of_langevin_is_as_printed(name):
    found = {}
    for levels, inner, rate, deviation in printed(name):
        ladder = Geometric(sigma_max=50.0, levels=levels)
        schedule = Linear() if name == "variance preserving" else ladder
        time_points = times(schedule, "linspace", levels)
        rate = rate or Langevin(inner=inner).rate(schedule, time_points)
        *_, (_, v) = langevin(schedule, time_points, rate, inner)
        assert deviation == pytest.approx(v**0.5, abs=5.1e-4)
        found[levels, inner, round(rate, 3)] = deviation
    if name == "variance preserving":
        assert found[40, 30, 0.1] == 0.535


PUBLISHED = {
    "cifar10": (50, 232, 5, 6.18e-6, 1.0555, 6.2e-6),
    "celeba": (90, 500, 5, 3.34e-6, 1.0314, 3.3e-6),
    "church": (140, 788, 4, 2.31e-6, 1.0247, 4.9e-6),
    "lsun_128": (190, 1086, 3, 1.77e-6, 1.0174, 1.8e-6),
    "ffhq": (348, 2311, 3, 8.93e-7, 1.0089, 0.9e-6),
}


@pytest.mark.parametrize(
    ("sigma_max", "levels", "inner", "best", "ratio", "epsilon"), PUBLISHED.values(), ids=PUBLISHED
)
def test_technique_4(sigma_max, levels, inner, best, ratio, epsilon):
    """The best epsilon for the published budgets, and the ratio at the published epsilon.

    All follow from the formula but church's, whose published 4.9e-6 does not.
    """
    gamma = Geometric(sigma_max=sigma_max, levels=levels).ratio
    assert best_rate(gamma, inner) * 1e-4 == pytest.approx(best, rel=2.5e-3)
    found = variance_ratio(scalar(epsilon / 1e-4), gamma, inner).item()
    assert found == pytest.approx(ratio, abs=5e-5)
    assert variance_ratio(torch.linspace(1e-6, 0.999, 1000).double(), gamma, inner).min() > 1


@pytest.mark.parametrize("inner", [1, 3, 5])
@pytest.mark.parametrize("rate", [0.05, 0.3, 1.2])
def test_technique_4_is_what_a_level_does(inner, rate):
    """Noise of the level above in, the closed form out: one visit, exactly."""
    ladder = Geometric(sigma_max=1.0)
    time_points = torch.tensor([0.5, 0.0], dtype=torch.float64)
    level = float(ladder.sigma(time_points[0])) ** 2
    above = level * ladder.ratio**2
    sampler = Langevin(epsilon=rate * 1e-4, inner=inner, denoise=False)
    _, found = law(sampler, Gaussian(ladder, 0.0), time_points, above)
    expected = variance_ratio(scalar(rate), ladder.ratio, inner).item()
    assert found / level == pytest.approx(expected, rel=1e-10)


def test_technique_4_by_monte_carlo():
    """The same with drawn noise, 1e5 numbers, to 4 standard errors."""
    ladder = Geometric(sigma_max=1.0)
    time_points = torch.tensor([0.5, 0.0], dtype=torch.float64)
    level, noise = ladder.sigma(time_points[0]), SeededNoise(5, range(100))
    x = level * ladder.ratio * noise(torch.zeros(100, 1, 25, 40))
    sampler = Langevin(epsilon=0.3e-4, inner=3, denoise=False)
    found = sampler(Gaussian(ladder, 0.0), x, time_points, None, noise).var() / level**2
    expected = variance_ratio(scalar(0.3), ladder.ratio, 3).item()
    assert found.item() == pytest.approx(expected, rel=4 * math.sqrt(2 / 1e5))


def test_auto_epsilon_follows_the_levels_visited():
    """Half the levels stand twice as far apart."""
    ladder = Geometric(sigma_max=50.0, levels=233)
    rates = [Langevin().rate(ladder, times(ladder, "linspace", steps)) for steps in (233, 117)]
    assert rates[0] == pytest.approx(best_rate(ladder.ratio, 5))
    assert rates[1] == pytest.approx(best_rate(ladder.ratio**2, 5))


def test_final_denoise():
    """It multiplies the variance by (s^2 / (s^2 + sigma_L^2))^2, here with s near sigma_L."""
    time_points, spread = times(LADDER, "linspace", 40), 2e-4
    laws = [
        law(Langevin(epsilon=3e-5, denoise=on), Gaussian(LADDER, spread), time_points, 25.0)[1]
        for on in (True, False)
    ]
    assert laws[0] / laws[1] == pytest.approx((spread / (spread + 1e-4)) ** 2, rel=1e-10)


@pytest.mark.parametrize("sampler", [DDPM(), DDPM("fixedlarge"), DDIM(eta=1.0)], ids=str)
def test_clipping_by_bayes_rule(sampler):
    """One step by hand: x0 is clipped first, and the mean is formed from the clipped one."""
    schedule, (t, s) = Linear(), (scalar(0.3), scalar(0.2))
    clipped = Clipped(Gaussian(schedule, 4.0), -1, 1)
    x = image(torch.linspace(-4, 4, 9).double())
    found = sampler(clipped, x, torch.stack([t, s]), None, silent)
    a, a_s = schedule.alpha(t) ** 2, schedule.alpha(s) ** 2
    beta, x0 = 1 - a / a_s, (a.sqrt() * 4 / (4 * a + 1 - a) * x).clamp(-1, 1)
    precision = 1 / (1 - a_s) + (1 - beta) / beta  # p(x_s | x0) times p(x_t | x_s)
    mean = (a_s.sqrt() * x0 / (1 - a_s) + (1 - beta).sqrt() * x / beta) / precision
    torch.testing.assert_close(found, mean)


CONVERGING = {
    "fixedsmall": DDPM("fixedsmall"),
    "fixedlarge": DDPM("fixedlarge"),
    "ddim_1": DDIM(eta=1.0),
    "euler_churn": Euler(churn=8.0),
    "heun_churn": Heun(churn=8.0),
    "dpmpp_2m_sde": DPMpp2MSDE(),
    "dpmpp_2m_sde_half": DPMpp2MSDE(eta=0.5),
    "euler_maruyama": EulerMaruyama(),
    "consistent": Consistent(),
}


@pytest.mark.parametrize("schedule", [Linear(), LADDER, EDM()], ids=["linear", "geometric", "edm"])
@pytest.mark.parametrize("sampler", CONVERGING.values(), ids=CONVERGING)
def test_noise_in_many_steps_leaves_the_data_law(sampler, schedule):
    """The error of the variance at t_min falls at first order or better."""
    errors, exact = [], Gaussian(schedule, V)
    for steps in (25, 100):
        time_points = times(schedule, "log_snr", steps)[:-1]
        found = law(sampler, exact, time_points, truth(exact, time_points[0]))[1]
        errors.append(abs(found / truth(exact, time_points[-1]) - 1))
    assert errors[1] < max(errors[0] / 3, 2e-3)
    assert errors[1] < 0.15


def truth(denoiser: Gaussian, t: torch.Tensor) -> float:
    """Variance of x_t."""
    alpha, sigma = denoiser.schedule.alpha(t), denoiser.schedule.sigma(t)
    return float(alpha**2 * denoiser.spread + sigma**2)


MONTE_CARLO = {
    "fixedlarge": (DDPM("fixedlarge"), "log_snr"),
    "ddim_1": (DDIM(eta=1.0), "trailing"),
    "dpmpp_2m_sde": (DPMpp2MSDE(), "log_snr"),
    "langevin": (Langevin(inner=3), "linspace"),
    "heun_churn": (Heun(churn=3.0), "karras"),
}


@pytest.mark.parametrize(("sampler", "spacing"), MONTE_CARLO.values(), ids=MONTE_CARLO)
def test_seeded_noise_gives_the_exact_law(sampler, spacing):
    """Drawn images agree with the recursion to 4 standard errors."""
    schedule, time_points = Linear(), times(Linear(), spacing, 12)
    noise, like = SeededNoise(11, range(60)), torch.zeros(60, 1, 20, 25)
    x = schedule.sigma(time_points[0]) * noise(like)
    found = sampler(Gaussian(schedule, V, MEAN), x, time_points, None, noise)
    mean, variance = law(
        sampler,
        Gaussian(schedule, V, MEAN),
        time_points,
        float(schedule.sigma(time_points[0])) ** 2,
    )
    count = found.numel()
    assert found.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(variance / count))
    assert found.var().item() == pytest.approx(variance, rel=4 * math.sqrt(2 / count))


@pytest.mark.parametrize("schedule", [Linear(), LADDER], ids=["linear", "geometric"])
def test_corrector(schedule):
    """In many dimensions |z| / |score| is 1 / (its deviation), so the move 2 a snr^2 P^2 / V."""
    t, snr = scalar(0.6), 0.3
    p = Pair(schedule, t, scalar(0.5))
    noise = SeededNoise(2, range(40))
    x = 1.5 * p.P**0.5 * noise(torch.zeros(40, 1, 50, 50))  # too wide, for the move to matter
    time_points = torch.stack([t, scalar(0.5)])
    found = (
        PC(snr=snr, correctors=3)(Gaussian(schedule, V), x, time_points, None, noise).var().item()
    )
    v = 2.25 * p.P
    for _ in range(3):
        move = 2 * p.a / p.a_s * snr**2 * p.P**2 / v
        v = (1 - move / p.P) ** 2 * v + 2 * move
    _, expected = (ancestral if schedule.alpha(t) < 1 else ve_ancestral)(p, (0.0, v))
    assert found == pytest.approx(expected, rel=4 * math.sqrt(2 / 1e5))
