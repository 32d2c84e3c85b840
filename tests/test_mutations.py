"""Mistakes that circulate, each made on purpose: the test that knows better must fail.

Most stand in summaries and ports of these papers (a factor of two in Langevin dynamics, a scale
for its square, levels in the wrong order); without this list a test could go blind unnoticed.
Each mistake replaces one function or method by a wrong one, which is made from the right one.
"""

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import test_denoiser
import test_likelihood
import test_ncsn
import test_networks
import test_oracles
import test_parity
import test_refinenets
import test_sampler
import test_schedule
import test_spacing
import test_training
import test_tuned
import torch
from torch.nn import functional as F

from diffgen.commands import data_dependent
from diffgen.denoiser import Denoiser, noise_input, prediction
from diffgen.denoiser.noise_input import level
from diffgen.errors import UsageError
from diffgen.network.ncsn_refinenet import NCSNRefineNet
from diffgen.network.refine import InstanceNormPlus
from diffgen.network.refine_body import RefineBody
from diffgen.sampler import (
    base,
    deis,
    dpmpp_3m,
    langevin,
    likelihood,
    noise,
    pc,
    rk45,
    tuned,
    unipc,
)
from diffgen.sampler import (
    heun as heun_file,
)
from diffgen.sampler.base import first_order, log_snrs, posterior_mean, posterior_variance
from diffgen.sampler.churn import Churned
from diffgen.sampler.consistent import Consistent
from diffgen.sampler.ddim import DDIM
from diffgen.sampler.ddpm import DDPM, STEPS, in_force
from diffgen.sampler.dpmpp_2m import DPMpp2M
from diffgen.sampler.dpmpp_2m_sde import DPMpp2MSDE
from diffgen.sampler.euler import Euler
from diffgen.sampler.euler_maruyama import EulerMaruyama
from diffgen.sampler.heun import Heun
from diffgen.sampler.langevin import Langevin
from diffgen.sampler.pc import PC
from diffgen.sampler.unipc import UniPC
from diffgen.schedule import Schedule, ncsnv2, spacing
from diffgen.schedule.base import match
from diffgen.schedule.cosine import Cosine
from diffgen.schedule.discrete import Discrete, Ramp
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.linear import Linear
from diffgen.schedule.vp import VP
from diffgen.training.ema import EmaSettings
from diffgen.training.loss import Loss

Function = Callable[..., Any]


class Mistake(NamedTuple):
    """`wrong` makes a wrong function from the right one, `name` of `owner`; `check` must fail."""

    owner: ModuleType | type
    name: str
    wrong: Callable[[Function], Function]
    check: Callable[[], object]


def recursion(name: str) -> Callable[[], object]:
    return lambda: test_oracles.test_gaussian_recursion(*test_oracles.RECURSIONS[name])


def annealing(name: str, steps: int = 40, spacing: str = "linspace") -> Callable[[], object]:
    return lambda: test_oracles.test_langevin_recursion(test_oracles.LADDERS[name], steps, spacing)


def identity(name: str) -> Callable[[], object]:
    return lambda: test_sampler.test_identities(*test_sampler.IDENTITIES[name], "linear")


def order(name: str) -> Callable[[], object]:
    return lambda: test_sampler.test_error_falls_with_the_order(name, "linear")


def alone(name: str) -> Callable[[], object]:
    return lambda: test_sampler.test_an_image_does_not_depend_on_its_company(name, Linear())


def limit(sampler: object) -> Callable[[], object]:
    return lambda: test_oracles.test_noise_in_many_steps_leaves_the_data_law(sampler, Linear())


def predicted(kind: str) -> Callable[[], object]:
    return lambda: test_denoiser.test_every_prediction_is_the_same_denoiser(kind, Linear())


def authors() -> None:
    test_refinenets.test_networks_equal_the_authors("standard")


def ladder_of_digits() -> None:
    with TemporaryDirectory() as folder:
        test_ncsn.test_measured_settings_become_numbers_that_need_no_data(folder)


def annealed(
    *, drift=1.0, rate=None, size=None, deviation=None, pairs=pairwise, last=None, rescale=False
) -> Callable[[Function], Function]:
    """Langevin's loop with parts of it wrong; without arguments it is right."""
    size = size or (lambda rate, sigma: rate * sigma**2)
    deviation = deviation or (lambda a, sigma: (2 * a).sqrt())
    last = last or (lambda s, denoise: s == 0 and denoise)

    def trajectory(self, denoiser, x, times, label, noise):
        rate = self.rate(denoiser.schedule, times)
        for t, s in pairs(times):
            sigma = denoiser.schedule.sigma(t)
            a = size(rate, sigma)
            for _ in range(self.inner):
                score = denoiser.score(x, t, label)
                x = x + drift * a * score + deviation(a, sigma) * noise(x)
            if rescale:
                x = x * denoiser.schedule.alpha(s) / denoiser.schedule.alpha(t)
            if last(s, self.denoise):
                x = denoiser(x, t, label)
            yield x

    return lambda right: trajectory


def upward(times):
    return pairwise([*times.flip(0)[1:], times[-1]])


def ancestral(
    *, mean=None, noisy=lambda s: s > 0, deviation=torch.sqrt
) -> Callable[[Function], Function]:
    """DDPM's loop with parts of it wrong; without arguments it is right."""

    def trajectory(self, denoiser, x, times, label, noise):
        schedule = denoiser.schedule
        step = STEPS[in_force(self.variance, schedule, times)]
        for t, s in pairwise(times):
            x0, variance = step(denoiser, x, t, s, label)
            if mean:
                x = mean(schedule, x, denoiser, t, s, label)
            else:
                x = posterior_mean(schedule, x, x0, t, s)
            if noisy(s):
                x = x + deviation(variance) * noise(x)
            yield x

    return lambda right: trajectory


def clipped_afterwards(schedule, x, denoiser, t, s, label):
    x0 = denoiser.denoiser(x, t, label)
    return posterior_mean(schedule, x, x0, t, s).clamp(-1, 1)


def ddim(*, of_variance=False, shortened=True) -> Callable[[Function], Function]:
    """DDIM's loop with a part of it wrong; without arguments it is right."""

    def trajectory(self, denoiser, x, times, label, noise):
        schedule = denoiser.schedule
        for t, s in pairwise(times):
            x0 = denoiser(x, t, label)
            eps = (x - schedule.alpha(t) * x0) / schedule.sigma(t)
            variance = posterior_variance(schedule, t, s).clamp(min=0)
            std = (self.eta * variance).sqrt() if of_variance else self.eta * variance.sqrt()
            length = (schedule.sigma(s) ** 2 - shortened * std**2).clamp(min=0).sqrt()
            x = schedule.alpha(s) * x0 + length * eps
            if self.eta > 0 and s > 0:
                x = x + std * noise(x)
            yield x

    return lambda right: trajectory


def consistent(right: Function) -> Function:
    def trajectory(self, denoiser, x, times, label, noise):
        schedule = denoiser.schedule
        contraction, h = self.contraction(schedule, times), log_snrs(schedule, times).diff()
        for k, (t, s) in enumerate(pairwise(times)):
            x0 = denoiser(x, t, label)
            if s == 0:
                yield x0
                return
            coef_eps = contraction * h[k].exp() * schedule.sigma(s)
            eps = (x - schedule.alpha(t) * x0) / schedule.sigma(t)
            x = schedule.alpha(s) * x0 + coef_eps * eps
            x = x + (schedule.sigma(s) ** 2 - coef_eps).clamp(min=0).sqrt() * noise(x)
            yield x

    return trajectory


def heun(right: Function) -> Function:
    def trajectory(self, denoiser, x, times, label, noise):
        schedule = denoiser.schedule
        for t, s in pairwise(times):
            x, t = self.add_churn(schedule, x, t, len(times) - 1, noise)
            x0 = denoiser(x, t, label)
            x = first_order(schedule, x, x0, t, s)
            fall = (schedule.log_snr(s) - schedule.log_snr(t)).expm1()
            if s > 0 and fall < 20:
                x = x + schedule.alpha(s) * fall * (denoiser(x, s, label) - x0)
            yield x

    return trajectory


def dpmpp_2m(*, ratio=None, history=True) -> Callable[[Function], Function]:
    """2M's loop with a part of it wrong; without arguments it is right."""
    ratio = ratio or (lambda h, k: h[k] / (2 * h[k - 1]))

    def trajectory(self, denoiser, x, times, label, noise):
        schedule, h = denoiser.schedule, log_snrs(denoiser.schedule, times).diff()
        previous = x
        for k, (t, s) in enumerate(pairwise(times)):
            x0 = denoiser(x, t, label)
            weight = ratio(h, k) if k > 0 and s > 0 else 0.0
            x = first_order(schedule, x, x0 + weight * (x0 - previous), t, s)
            previous = x0 if history else previous
            yield x

    return lambda right: trajectory


def third_order(past, h):
    step, r0 = h[-1], h[-2] / h[-1]
    p1 = torch.expm1(-step)
    p2 = p1 / step + 1
    d0 = (past[0] - past[1]) / r0
    if len(past) == 2:
        return -p1 / 2 * d0
    r1 = h[-3] / step
    d1 = (past[1] - past[2]) / r1
    slope = d0 + r0 / (r0 + r1) * (d0 - d1)
    return p2 * slope - (p2 / step - 0.5) * (d0 - d1) / (r0 + r1)


def sde(right: Function) -> Function:
    def trajectory(self, denoiser, x, times, label, noise):
        """The right path, with the noise of half the variance's exponent."""
        h, calls = log_snrs(denoiser.schedule, times).diff(), iter(range(len(times)))

        def less(like):
            k = next(calls)
            return (
                noise(like) * ((-self.eta * h[k]).expm1() / (-2 * self.eta * h[k]).expm1()).sqrt()
            )

        return right(self, denoiser, x, times, label, less)

    return trajectory


def unipc_weights(r, step, kernel):
    if len(r) == 1:
        return torch.full_like(r, 0.5)
    phi, b = step.expm1() / step - 1, []
    for i in range(1, len(r) + 1):
        b.append(phi / kernel)
        phi = phi / step - 1 / math.factorial(i + 1)
    return torch.linalg.solve(torch.stack([r**i for i in range(len(r))]), torch.stack(b))


def corrected_twice(right: Function) -> Function:
    def trajectory(self, denoiser, x, times, label, noise):
        schedule, log_snr = denoiser.schedule, log_snrs(denoiser.schedule, times)
        to_image = len(times) if times[-1] == 0 else math.inf
        order, past = 0, []
        for k, (t, s) in enumerate(pairwise(times)):
            now = log_snr[k], denoiser(x, t, label)
            if past:
                terms = self.correction(past[0], [*past[1:order], now], now[0])
                x = x + schedule.alpha(t) * terms
            past = [now, *past[:2]]
            order = int(min(self.order, k + 1, to_image - 1 - k))
            x = first_order(schedule, x, past[0][1], t, s)
            if order > 1:
                terms = self.correction(past[0], past[1:order], log_snr[k + 1])
                x = x + schedule.alpha(s) * terms
            yield x

    return trajectory


def deis_weights(log_snr):
    step, nodes = log_snr[0] - log_snr[1], log_snr[1:] - log_snr[1]
    powers = torch.arange(len(nodes), dtype=torch.float64)[:, None]
    points, quadrature = (torch.from_numpy(f) for f in np.polynomial.legendre.leggauss(16))
    inside = step * (points + 1) / 2
    integrals = (inside**powers * inside.exp() * quadrature).sum(1) * step / 2
    return torch.linalg.solve(nodes**powers, integrals)


def euler_maruyama(right: Function) -> Function:
    def trajectory(self, denoiser, x, times, label, noise):
        schedule = denoiser.schedule
        for t, s in pairwise(times):
            x0 = denoiser(x, t, label)
            if s == 0:
                yield x0
                return
            log_ratio = (schedule.alpha(s) / schedule.alpha(t)).log()
            variance = schedule.sigma(t) ** 2 - schedule.sigma(s) ** 2
            score = (schedule.alpha(t) * x0 - x) / schedule.sigma(t) ** 2
            x = x + log_ratio * x + variance * score + variance.sqrt() * noise(x)
            yield x

    return trajectory


def error_over_the_batch(right: Function) -> Function:
    """The error of each image is that of the whole batch."""

    def runge_kutta(field, z, k, a, step):
        z_next, k_next, error = right(field, z, k, a, step)
        worst = error.square().mean().sqrt()
        return z_next, k_next, torch.full_like(error, float(worst))

    return runge_kutta


def drawn_from_one_stream(right: Function) -> Function:
    def call(self, like):
        rows = [self.streams[0].standard_normal(like.shape[1:], np.float32) for _ in self.streams]
        return torch.from_numpy(np.stack(rows)).to(like)

    return call


def differences(right: Function) -> Function:
    """The noise is recovered from images in bfloat16."""

    def call(self, x0, label, draws):
        t, eps = self.draw_times(draws), draws.normal(x0)
        schedule = self.denoiser.schedule
        alpha, sigma = (match(value, x0) for value in (schedule.alpha(t), schedule.sigma(t)))
        x_t = alpha * x0 + sigma * eps
        found = (x_t.bfloat16() - x0.bfloat16()) / sigma
        return self.reduced((self.denoiser.raw(x_t, t, label) + found).square()), t

    return call


def unweighted(right: Function) -> Function:
    def call(self, x0, label, draws):
        errors, t = right(self, x0, label, draws)
        return errors / self.denoiser.schedule.sigma(t) ** 2, t

    return call


def instance_norm(*, over=(2, 3), correction=1, gain=True) -> Callable[[Function], Function]:
    """InstanceNorm++ with a part of it wrong; without arguments it is right."""

    def forward(self, x, given):
        gamma, alpha, beta = self._rows(given)[..., None, None].unbind(1)
        mean = x.mean(dim=over, keepdim=True)
        variance, middle = torch.var_mean(mean, dim=1, correction=correction, keepdim=True)
        offset = alpha * (mean - middle) * (variance + 1e-5).rsqrt()
        return self.plain(x) * gamma + ((gamma if gain else 1) * offset + beta)

    return lambda right: forward


def refine_body(right: Function) -> Function:
    def forward(self, x, given):
        x, maps, refined = self.begin(2 * x - 1), [], []
        for stage in self.stages:
            first, second = stage.children()
            x = second(first(x, given), given)
            maps.append(x)
        for refine in self.refines:
            refined = [refine([maps.pop(0), *refined], given)]
        return self.end(F.elu(self.norm(refined[0], given)))

    return forward


def unturned(right: Function) -> Function:
    return lambda self, x, c_noise, label=None: right(self, x, self.levels - 1 - c_noise, label)


def spread_for_distance(right: Function) -> Function:
    def measured(images, cache):
        spread = data_dependent.range_of("standardised", images).scale / 10
        return replace(right(images, cache), value=spread)

    return measured


def geometric(right: Function) -> Function:
    def sigma(self, t):
        position = t.double() * self.levels
        ladder = self.sigma_min * ((self.levels - position) * math.log(self.ratio)).exp()
        return torch.where(position < 1, self.sigma_min * position, ladder)

    return sigma


def discrete_table(*, power=2, first=True) -> Callable[[Function], Function]:
    """The table of a schedule by its levels; without arguments it is right."""

    def table(self):
        log_alpha = torch.log1p(-self.betas()).cumsum(0) / power
        if not self.zero_snr:
            return torch.cat([log_alpha.new_zeros(1), log_alpha])
        alpha = log_alpha.exp()
        scale = alpha[0] / (alpha[0] - alpha[-1]) if first else 1 / (1 - alpha[-1])
        return torch.cat([alpha.new_ones(1), (alpha - alpha[-1]) * scale])

    return lambda right: table


def cosine(right: Function) -> Function:
    def betas(self):
        t = torch.linspace(0, 1, self.levels + 1, dtype=torch.float64)
        signal = (t / (1 + self.offset) * math.pi / 2).cos() ** 2
        return (1 - signal[1:] / signal[:-1]).clamp(max=self.beta_max)

    return betas


def vp(right: Function) -> Function:
    def log_alpha(self, t):
        t = t.double()
        return -(t**2) * (self.beta_max - self.beta_min) / 2 - t * self.beta_min / 2

    return log_alpha


def leading(right: Function) -> Function:
    def times(schedule, steps):
        levels = spacing.max_steps(schedule)
        stride = levels // steps
        index = torch.arange((levels - 1) // stride, -1, -1, dtype=torch.float64)
        return torch.cat([(1 + stride * index) / levels, index.new_zeros(1)])

    return times


def linspace(right: Function) -> Function:
    def times(schedule, steps):
        inner = torch.linspace(1, 1e-5, steps, dtype=torch.float64)
        return torch.cat([inner, inner.new_zeros(1)])

    return times


def karras(right: Function) -> Function:
    """Sigma itself is even where its root should be."""

    def times(schedule, steps, rho=7.0):
        ends = torch.tensor([1.0, schedule.t_min], dtype=torch.float64)
        first, last = torch.exp(-schedule.log_snr(ends).clamp(min=-12))
        inner = torch.linspace(float(first), float(last), steps, dtype=torch.float64)
        found = schedule.time(-rho * inner.log()).clamp(schedule.t_min, 1)
        return torch.cat([found, found.new_zeros(1)])

    return times


def edm_skip(right: Function) -> Function:
    def coefficients(self, alpha, sigma):
        c_skip, c_out, c_in = right(self, alpha, sigma)
        return c_skip / self.sigma_data, c_out, c_in

    return coefficients


def negative_out(right: Function) -> Function:
    def coefficients(self, alpha, sigma):
        c_skip, c_out, c_in = right(self, alpha, sigma)
        return c_skip, -c_out, c_in

    return coefficients


def squared_out(right: Function) -> Function:
    def coefficients(self, alpha, sigma):
        c_skip, c_out, c_in = right(self, alpha, sigma)
        return c_skip, c_out * sigma, c_in

    return coefficients


def larger_score(right: Function) -> Function:
    return lambda self, x, t, label=None: right(self, x, t, label) * self.schedule.at(t, x)[1]


def without_volume(right: Function) -> Function:
    """The divergence of the field counts for nothing."""

    def log_density(denoiser, x, times, divergence=likelihood.exact, label=None):
        def none(field, z):
            value, trace = divergence(field, z)
            return value, 0 * trace

        return right(denoiser, x, times, none, label)

    return log_density


def shortest(errors, steps):
    best, before = errors[0, 0].expand_as(errors[0]).clone(), []
    best[1:] = torch.inf
    for _ in range(steps - 1):
        best, came = (best[:, :, None] + errors).min(0)
        before.append(came)
    path = [len(best) - 1, int(best[1:, -1].argmin())]
    for came in reversed(before):
        path.append(int(came[path[-1], path[-2]]))
    return path[::-1]


def step_from_a_learning_rate(rate, sigma):
    return sigma**2 / (sigma**2 + 1e-4)


SETTLED = (2e-5, 1e-4, 1.111)
CIFAR10 = test_oracles.PUBLISHED["cifar10"]
CIFAR10_LADDER = test_ncsn.PUBLISHED["cifar10"]
REFINENET = test_networks.WITHOUT_LEVEL["refinenet"]
DECAY = test_training.PROFILES["decay"]


def settles() -> None:
    test_oracles.test_a_level_settles_at_its_own_variance(*SETTLED)


def technique_2() -> None:
    test_ncsn.test_technique_2_before_rounding(*CIFAR10_LADDER)


def average() -> None:
    test_training.test_an_average_is_its_closed_form(*DECAY)


def intervals(name: str) -> Callable[[], object]:
    return lambda: test_spacing.test_exactly_that_many_intervals(name, "linear")


def quantiles() -> None:
    case = test_likelihood.SAMPLERS["unipc"]
    test_likelihood.test_encoding_carries_quantiles_to_quantiles(*case, "linear")


def langevin_mistake(
    wrong: Callable[[Function], Function], check: Callable[[], object]
) -> Mistake:
    return Mistake(Langevin, "trajectory", wrong, check)


def norm_of(**parts: Any) -> Mistake:
    return Mistake(InstanceNormPlus, "forward", instance_norm(**parts), authors)


HEUN = test_sampler.test_edm_algorithm_2
NCSNS = test_training.test_on_the_score_it_is_ncsns_weighted_score_matching

MISTAKES = {
    # Annealed Langevin dynamics.
    "half_the_step": langevin_mistake(annealed(drift=0.5), annealing("ve")),
    "noise_without_its_2": langevin_mistake(
        annealed(deviation=lambda a, sigma: a.sqrt()), settles
    ),
    "steps_like_deviations": langevin_mistake(
        annealed(size=lambda rate, sigma: rate * sigma), annealing("ve")
    ),
    "steps_from_a_learning_rate": langevin_mistake(
        annealed(size=step_from_a_learning_rate), annealing("vp")
    ),
    "noise_of_the_level": langevin_mistake(
        annealed(deviation=lambda a, sigma: sigma), annealing("ve")
    ),
    "levels_upward": langevin_mistake(annealed(pairs=upward), annealing("ve")),
    "no_final_denoise": langevin_mistake(
        annealed(last=lambda s, denoise: False), test_oracles.test_final_denoise
    ),
    "denoise_after_every_level": langevin_mistake(
        annealed(last=lambda s, denoise: denoise), annealing("ve")
    ),
    "the_other_papers_factor": Mistake(
        Langevin, "rate",
        lambda right: lambda self, schedule, times: right(self, schedule, times) / 2,
        annealing("vp"),
    ),
    "lowest_level_visited": Mistake(
        base, "lowest_variance",
        lambda right: lambda schedule, times: float(schedule.sigma(times[-2])) ** 2,
        annealing("ve", 10, "trailing"),
    ),
    "rescaled_between_levels": langevin_mistake(annealed(rescale=True), annealing("vp")),
    "start_at_unit_noise": Mistake(
        noise, "prior", lambda right: lambda schedule, t, like, noise, bounds: noise(like),
        test_sampler.test_starts,
    ),
    "technique_4_without_the_square": Mistake(
        langevin, "variance_ratio",
        lambda right: lambda rate, gamma, inner: right(rate, gamma**0.5, inner),
        lambda: test_oracles.test_technique_4(*CIFAR10),
    ),
    "technique_4_half_the_moves": Mistake(
        langevin, "variance_ratio",
        lambda right: lambda rate, gamma, inner: right(rate, gamma, inner / 2),
        lambda: test_oracles.test_technique_4_is_what_a_level_does(3, 0.3),
    ),
    "consistent_noise_of_deviations": Mistake(
        Consistent, "trajectory", consistent, recursion("consistent")
    ),
    # NCSN's training and networks.
    "unweighted_score_matching": Mistake(Loss, "__call__", unweighted, NCSNS),
    "score_by_differences": Mistake(Loss, "__call__", differences, NCSNS),
    "a_level_where_there_is_none": Mistake(noise_input, "nothing", lambda right: level, NCSNS),
    "score_not_over_sigma": Mistake(
        prediction.Score, "coefficients", squared_out, test_denoiser.test_technique_3
    ),
    "ladder_upside_down": Mistake(Geometric, "sigma", geometric, test_schedule.test_ncsn_ladder),
    "rows_not_turned": Mistake(
        NCSNRefineNet, "forward", unturned, test_refinenets.test_paper_row_0_is_the_most_noise
    ),
    "batch_norm": Mistake(
        InstanceNormPlus, "forward", instance_norm(over=(0, 2, 3)),
        lambda: test_networks.test_an_image_does_not_see_its_batch(REFINENET),
    ),
    "activated_output": Mistake(
        RefineBody, "forward",
        lambda right: lambda self, x, given: F.leaky_relu(right(self, x, given)), authors,
    ),
    "skips_out_of_order": Mistake(RefineBody, "forward", refine_body, authors),
    "means_without_their_gain": norm_of(gain=False),
    "biased_variance_of_means": norm_of(correction=0),
    # The ladder made for the data.
    "ladder_of_deviations": Mistake(
        data_dependent, "measured", spread_for_distance, ladder_of_digits
    ),
    "ten_levels": Mistake(
        ncsnv2, "levels_of", lambda right: lambda *ends: min(10, right(*ends)),
        test_ncsn.test_mnists_levels,
    ),
    "technique_2_of_half_the_dimension": Mistake(
        ncsnv2, "overlap", lambda right: lambda ratio, dimension: right(ratio, dimension / 2),
        technique_2,
    ),
    "technique_2_counts_steps": Mistake(
        ncsnv2, "levels_between", lambda right: lambda *ends: right(*ends) - 1, technique_2
    ),
    "average_warmed_up": Mistake(
        EmaSettings, "beta", lambda right: lambda self: right(replace(self, warmup=True)), average
    ),
    "average_made_afterwards": Mistake(
        EmaSettings, "beta", lambda right: lambda self: lambda n: 0.0, average
    ),
    # Ancestral sampling and DDIM.
    "clipped_after_the_mean": Mistake(
        DDPM, "trajectory", ancestral(mean=clipped_afterwards),
        lambda: test_oracles.test_clipping_by_bayes_rule(test_oracles.DDPM()),
    ),
    "noise_on_the_last_step": Mistake(
        DDPM, "trajectory", ancestral(noisy=lambda s: s >= 0), recursion("fixedlarge_vp")
    ),
    "variance_for_deviation": Mistake(
        DDPM, "trajectory", ancestral(deviation=lambda v: v), recursion("fixedsmall_vp")
    ),
    "scale_for_alpha_bar": Mistake(
        base, "posterior_variance",
        lambda right: lambda schedule, t, s: (
            schedule.sigma(s) / schedule.sigma(t) * base.added_variance(schedule, t, s)
        ),
        recursion("fixedsmall_vp"),
    ),
    "eta_on_the_variance": Mistake(
        DDIM, "trajectory", ddim(of_variance=True), recursion("ddim_half")
    ),
    "direction_not_shortened": Mistake(
        DDIM, "trajectory", ddim(shortened=False), identity("ddim_eta_1_is_fixedsmall")
    ),
    # Solvers.
    "heun_without_the_mean": Mistake(Heun, "trajectory", heun, HEUN),
    "churn_not_shared_out": Mistake(
        Churned, "add_churn",
        lambda right: lambda self, schedule, x, t, steps, noise: right(
            self, schedule, x, t, 1, noise
        ),
        HEUN,
    ),
    "churn_of_a_part": Mistake(
        Churned, "with_fixed_step",
        lambda right: lambda self, *_: self,
        lambda: test_sampler.test_a_run_in_parts_is_the_whole_run(Euler(churn=3.0)),
    ),
    "variance_of_a_part": Mistake(
        DDPM, "with_fixed_step",
        lambda right: lambda self, *_: self,
        lambda: test_sampler.test_a_run_in_parts_is_the_whole_run(DDPM("auto")),
    ),
    "heun_of_a_flow_in_u": Mistake(
        heun_file, "scale",
        lambda right: lambda schedule, t: schedule.alpha(t),
        test_sampler.test_heun_on_a_flow_is_that_of_its_papers,
    ),
    "churn_noise_unscaled": Mistake(
        Churned, "add_churn",
        lambda right: lambda self, *state: right(replace(self, churn_scale=1.0), *state),
        HEUN,
    ),
    "2m_ratio_inverted": Mistake(
        DPMpp2M, "trajectory", dpmpp_2m(ratio=lambda h, k: h[k - 1] / (2 * h[k])),
        lambda: test_parity.test_dpmpp_2m(8, "trailing"),
    ),
    "2m_history_lost": Mistake(
        DPMpp2M, "trajectory", dpmpp_2m(history=False), order("dpmpp_2m")
    ),
    "3m_without_its_2": Mistake(
        dpmpp_3m, "curvature_terms", lambda right: third_order, order("dpmpp_3m")
    ),
    "sde_noise_of_half_the_exponent": Mistake(
        DPMpp2MSDE, "trajectory", sde, limit(DPMpp2MSDE())
    ),
    "unipc_without_factorials": Mistake(
        unipc, "weights", lambda right: unipc_weights, order("unipc_3")
    ),
    "unipc_corrects_the_corrected": Mistake(
        UniPC, "trajectory", corrected_twice, order("unipc_2")
    ),
    "deis_time_reversed": Mistake(
        deis, "weights", lambda right: deis_weights, lambda: test_parity.test_deis(2)
    ),
    "drift_without_noise": Mistake(
        EulerMaruyama, "trajectory", euler_maruyama, limit(EulerMaruyama())
    ),
    "corrector_half_as_bold": Mistake(
        PC, "trajectory",
        lambda right: lambda self, *state: right(replace(self, snr=self.snr / 2**0.5), *state),
        lambda: test_oracles.test_corrector(Linear()),
    ),
    # Each image is its own.
    "norms_over_the_batch": Mistake(
        pc, "norm", lambda right: torch.linalg.vector_norm, alone("pc")
    ),
    "error_over_the_batch": Mistake(
        rk45, "runge_kutta", error_over_the_batch,
        test_sampler.test_adaptive_steps_are_each_images_own,
    ),
    "noise_of_the_batch": Mistake(
        noise.SeededNoise, "__call__", drawn_from_one_stream, alone("ddpm_fixedsmall")
    ),
    # Schedules and times.
    "alpha_bar_for_alpha": Mistake(
        Discrete, "_table", discrete_table(power=1), test_schedule.test_ddpm_table
    ),
    "ends_not_rescaled": Mistake(
        Ramp, "ends", lambda right: lambda self: (self.beta_min, self.beta_max),
        lambda: test_schedule.test_ends_follow_the_number_of_levels(100),
    ),
    "cosine_without_offset": Mistake(Cosine, "betas", cosine, test_schedule.test_cosine_table),
    "rate_for_its_half": Mistake(
        VP, "_log_alpha", vp, test_schedule.test_continuous_vp_is_ddpm_with_endless_levels
    ),
    "first_level_moved": Mistake(
        Discrete, "_table", discrete_table(first=False), test_schedule.test_zero_terminal_snr
    ),
    "level_truncated": Mistake(
        Schedule, "level",
        lambda right: lambda self, t: (t * self.levels - 1).floor(),
        test_schedule.test_level_is_the_papers_index,
    ),
    "more_steps_than_asked": Mistake(spacing, "leading", leading, intervals("leading")),
    "times_below_the_first_level": Mistake(
        spacing, "linspace", linspace, intervals("linspace")
    ),
    "even_sigma_for_even_root": Mistake(
        spacing, "karras", karras, lambda: test_spacing.test_karras_steps(18)
    ),
    # Parametrisations, likelihoods, tuning.
    "v_upside_down": Mistake(prediction.V, "coefficients", negative_out, predicted("v")),
    "edm_skip_of_deviations": Mistake(
        prediction.Edm, "coefficients", edm_skip, predicted("edm")
    ),
    "score_over_sigma": Mistake(
        Denoiser, "score", larger_score,
        lambda: test_denoiser.test_gaussian_score_is_the_gradient_of_its_density(Linear()),
    ),
    "volume_forgotten": Mistake(
        likelihood, "log_density", without_volume,
        lambda: test_likelihood.test_log_density_of_a_gaussian("linear"),
    ),
    "image_taken_for_its_noisy_self": Mistake(
        likelihood, "_noise_in",
        lambda right: lambda denoiser, x, t, label: torch.ones_like(x),
        quantiles,
    ),
    "costliest_path": Mistake(
        tuned, "shortest", lambda right: shortest,
        lambda: test_tuned.test_shortest_path_against_all_paths(3),
    ),
}  # fmt: skip

RIGHT = {
    "langevin": langevin_mistake(annealed(), annealing("ve")),
    "ancestral": Mistake(DDPM, "trajectory", ancestral(), recursion("fixedlarge_vp")),
    "ddim": Mistake(DDIM, "trajectory", ddim(), recursion("ddim_half")),
    "dpmpp_2m": Mistake(DPMpp2M, "trajectory", dpmpp_2m(), order("dpmpp_2m")),
    "instance_norm": norm_of(),
    "table": Mistake(Discrete, "_table", discrete_table(), test_schedule.test_ddpm_table),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_noticed(mistake, monkeypatch):
    make(mistake, monkeypatch)
    with pytest.raises((AssertionError, RuntimeError, UsageError)):
        mistake.check()


@pytest.mark.parametrize("copy", RIGHT.values(), ids=RIGHT)
def test_copies_without_a_mistake_pass(copy, monkeypatch):
    """So it is the mistake that a check notices, not the copy in which it is made."""
    make(copy, monkeypatch)
    copy.check()


def make(mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the wrong function in the place of the right one, wherever that is in use."""
    right = vars(mistake.owner)[mistake.name]
    if isinstance(right, property):
        monkeypatch.setattr(mistake.owner, mistake.name, property(mistake.wrong(right.fget)))
    elif isinstance(right, functools.cached_property):
        wrong = functools.cached_property(mistake.wrong(right.func))
        wrong.__set_name__(mistake.owner, mistake.name)
        monkeypatch.setattr(mistake.owner, mistake.name, wrong)
    else:
        wrong = mistake.wrong(right)
        monkeypatch.setattr(mistake.owner, mistake.name, wrong)
        for name, module in list(sys.modules.items()):
            if name.startswith(("diffgen", "test_")) and name != __name__:
                replace_in(vars(module), right, wrong, monkeypatch)


def replace_in(names: dict, right: object, wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace a function among the names of a module and in the tables that it holds."""
    for name, value in list(names.items()):
        if value is right:
            monkeypatch.setitem(names, name, wrong)
        elif isinstance(value, dict) and not name.startswith("__"):
            for key in [key for key, entry in value.items() if entry is right]:
                monkeypatch.setitem(value, key, wrong)
