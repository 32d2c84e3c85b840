"""Mistakes that circulate, each made on purpose: the test that knows better must fail.

Most stand in summaries and ports of these papers (a factor of two in Langevin dynamics, a scale
for its square, levels the wrong way round); without this list a test could go blind unnoticed.
"""

import functools
import importlib
import inspect
import types
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from typing import NamedTuple

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

from diffgen.errors import UsageError
from diffgen.sampler.dpmpp_2m_sde import DPMpp2MSDE
from diffgen.sampler.euler_maruyama import EulerMaruyama
from diffgen.schedule.linear import Linear


class Mistake(NamedTuple):
    """In a module of diffgen `right` becomes `wrong`, and `check` must notice."""

    module: str
    right: str
    wrong: str
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


def prediction(kind: str) -> Callable[[], object]:
    return lambda: test_denoiser.test_every_prediction_is_the_same_denoiser(kind, Linear())


def authors() -> None:
    test_refinenets.test_networks_equal_the_authors("standard")


def ladder_of_digits() -> None:
    with TemporaryDirectory() as folder:
        test_ncsn.test_measured_settings_become_numbers_that_need_no_data(folder)


SETTLED = (2e-5, 1e-4, 1.111)
CIFAR10 = test_oracles.PUBLISHED["cifar10"]
CIFAR10_LADDER = test_ncsn.PUBLISHED["cifar10"]
REFINENET = test_networks.WITHOUT_LEVEL["refinenet"]
DPMPP_3M = "- (p2 / step - 0.5) * 2 * (d0 - d1)"

MISTAKES = {
    # Annealed Langevin dynamics.
    "half_the_step": Mistake("sampler.langevin", "+ move *", "+ move / 2 *", annealing("ve")),
    "noise_without_its_2": Mistake(
        "sampler.langevin", "(2 * move).sqrt()", "move.sqrt()",
        lambda: test_oracles.test_a_level_settles_at_its_own_variance(*SETTLED),
    ),
    "steps_like_deviations": Mistake(
        "sampler.langevin", ".sigma(t) ** 2", ".sigma(t)", annealing("ve")
    ),
    "steps_from_a_learning_rate": Mistake(
        "sampler.langevin", "rate * denoiser.schedule.sigma(t) ** 2",
        "denoiser.schedule.sigma(t) ** 2 / (denoiser.schedule.sigma(t) ** 2 + 1e-4)",
        annealing("vp"),
    ),
    "noise_of_the_level": Mistake(
        "sampler.langevin", "(2 * move).sqrt()", "denoiser.schedule.sigma(t)", annealing("ve")
    ),
    "levels_upward": Mistake(
        "sampler.langevin", "in pairwise(times):", "in pairwise([*times.flip(0)[1:], times[-1]]):",
        annealing("ve"),
    ),
    "no_final_denoise": Mistake(
        "sampler.langevin", "if s == 0 and self.denoise:", "if False:",
        lambda: test_oracles.test_final_denoise(),
    ),
    "denoise_after_every_level": Mistake(
        "sampler.langevin", "if s == 0 and self.denoise:", "if self.denoise:", annealing("ve")
    ),
    "the_other_papers_factor": Mistake(
        "sampler.langevin", '(4 if self.convention == "paper" else 2)', "4",
        annealing("vp"),
    ),
    "lowest_level_visited": Mistake(
        "sampler.langevin", "times.new_tensor(schedule.t_min)", "times[-2]",
        annealing("ve", 10, "trailing"),
    ),
    "rescaled_between_levels": Mistake(
        "sampler.langevin", "            if s == 0 and",
        "            x = x * denoiser.schedule.alpha(s) / denoiser.schedule.alpha(t)\n"
        "            if s == 0 and",
        annealing("vp"),
    ),
    "start_at_unit_noise": Mistake(
        "sampler.start", "schedule.sigma(t) * noise(like)", "noise(like)",
        test_sampler.test_starts,
    ),
    "technique_4_without_the_square": Mistake(
        "sampler.technique4", "gamma**2 - settled", "gamma - settled",
        lambda: test_oracles.test_technique_4(*CIFAR10),
    ),
    "technique_4_half_the_moves": Mistake(
        "sampler.technique4", "** (2 * inner)", "** inner",
        lambda: test_oracles.test_technique_4_is_what_a_level_does(3, 0.3),
    ),
    "consistent_noise_of_deviations": Mistake(
        "sampler.consistent", "kept**2", "kept", recursion("consistent")
    ),
    # NCSN's training and networks.
    "unweighted_score_matching": Mistake(
        "training.loss", "torch.square(c_out) * snr", "torch.square(c_out) * snr / sigma**2",
        test_training.test_on_the_score_it_is_ncsns_weighted_score_matching,
    ),
    "score_by_differences": Mistake(
        "training.loss", "+ match(b, x0) * eps\n        error",
        "+ match(b, x0) * (x_t.bfloat16() - x0.bfloat16()) / match(sigma, x0)\n        error",
        test_training.test_on_the_score_it_is_ncsns_weighted_score_matching,
    ),
    "told_the_level": Mistake(
        "denoiser.noise_input", '(NCSNv2)."""', '(NCSNv2)."""\n    return schedule.level(t)',
        test_training.test_on_the_score_it_is_ncsns_weighted_score_matching,
    ),
    "score_not_over_sigma": Mistake(
        "denoiser.prediction", "1 / alpha, sigma / alpha, torch", "1 / alpha, sigma**2 / alpha, torch",
        test_denoiser.test_technique_3,
    ),
    "ladder_upside_down": Mistake(
        "schedule.geometric", "(position - 1) *", "(self.levels - position) *",
        test_schedule.test_ncsn_ladder,
    ),
    "rows_not_turned": Mistake(
        "network.ncsn_refinenet", "self.levels - 1 - told", "told",
        test_refinenets.test_paper_row_0_is_the_most_noise,
    ),
    "batch_norm": Mistake(
        "network.instance_norm", "x.mean(dim=(2, 3)", "x.mean(dim=(0, 2, 3)",
        lambda: test_networks.test_an_image_does_not_see_its_batch(REFINENET),
    ),
    "activated_output": Mistake(
        "network.refine_body", "return self.end(F.elu(self.norm(refined[0], given)))",
        "return F.leaky_relu(self.end(F.elu(self.norm(refined[0], given))))", authors,
    ),
    "skips_out_of_order": Mistake(
        "network.refine_body", "maps.pop(), *refined", "maps.pop(0), *refined", authors
    ),
    "means_without_their_gain": Mistake(
        "network.instance_norm", "gamma * offset + beta", "offset + beta", authors
    ),
    "biased_variance_of_means": Mistake(
        "network.instance_norm", "(mean, dim=1, ", "(mean, dim=1, correction=0, ", authors
    ),
    # The ladder made for the data.
    "ladder_of_deviations": Mistake(
        "commands.data_dependent", "rounded(distance.value / scale)",
        'rounded(range_of("standardised", images).scale / scale / 10)', ladder_of_digits,
    ),
    "ten_levels": Mistake(
        "schedule.ncsnv2", "return max(2, round(", "return min(10, round(",
        test_ncsn.test_mnists_levels,
    ),
    "technique_2_of_half_the_dimension": Mistake(
        "schedule.ncsnv2", "math.sqrt(2 * dimension)", "math.sqrt(dimension)",
        lambda: test_ncsn.test_technique_2_before_rounding(*CIFAR10_LADDER),
    ),
    "technique_2_counts_steps": Mistake(
        "schedule.ncsnv2", "return 1 + math.log", "return math.log",
        lambda: test_ncsn.test_technique_2_before_rounding(*CIFAR10_LADDER),
    ),
    "average_warmed_up": Mistake(
        "training.ema", "if self.warmup else", "if True else",
        lambda: test_training.test_an_average_is_its_closed_form(*test_training.PROFILES["decay"]),
    ),
    "average_made_afterwards": Mistake(
        "training.ema", "1 - beta(self.step)", "1.0",
        lambda: test_training.test_an_average_is_its_closed_form(*test_training.PROFILES["decay"]),
    ),
    # Ancestral sampling and DDIM.
    "clipped_after_the_mean": Mistake(
        "sampler.ddpm", "posterior_mean(schedule, x, x0, t, s)",
        "posterior_mean(schedule, x, denoiser.denoiser(x, t, label), t, s).clamp(-1, 1)",
        lambda: test_oracles.test_clipping_by_bayes_rule(test_oracles.DDPM()),
    ),
    "noise_on_the_last_step": Mistake(
        "sampler.ddpm", "if s > 0:", "if s >= 0:", recursion("fixedlarge_vp")
    ),
    "variance_for_deviation": Mistake(
        "sampler.ddpm", "variance.sqrt()", "variance", recursion("fixedsmall_vp")
    ),
    "scale_for_alpha_bar": Mistake(
        "sampler.base", "return (schedule.sigma(s) / schedule.sigma(t)) ** 2 * added",
        "return (schedule.sigma(s) / schedule.sigma(t)) * added", recursion("fixedsmall_vp"),
    ),
    "eta_on_the_variance": Mistake(
        "sampler.ddim", "self.eta * posterior_variance(schedule, t, s).clamp(min=0).sqrt()",
        "(self.eta * posterior_variance(schedule, t, s).clamp(min=0)).sqrt()",
        recursion("ddim_half"),
    ),
    "direction_not_shortened": Mistake(
        "sampler.ddim", "** 2 - fresh**2", "** 2 - 0 * fresh", identity("ddim_eta_1_is_fixedsmall")
    ),
    # Solvers.
    "heun_without_the_mean": Mistake(
        "sampler.heun", "fall / 2", "fall", test_sampler.test_edm_algorithm_2
    ),
    "churn_not_shared_out": Mistake(
        "sampler.churn", "self.churn / steps", "self.churn", test_sampler.test_edm_algorithm_2
    ),
    "churn_noise_unscaled": Mistake(
        "sampler.churn", "self.churn_scale * noise(x)", "noise(x)",
        test_sampler.test_edm_algorithm_2,
    ),
    "2m_ratio_inverted": Mistake(
        "sampler.dpmpp_2m", "h[k] / (2 * h[k - 1])", "h[k - 1] / (2 * h[k])",
        lambda: test_parity.test_dpmpp_2m(8, "trailing"),
    ),
    "2m_history_lost": Mistake(
        "sampler.dpmpp_2m", "            before = x0\n", "", order("dpmpp_2m")
    ),
    "3m_without_its_2": Mistake(
        "sampler.dpmpp_3m", DPMPP_3M, DPMPP_3M.replace(" * 2", ""), order("dpmpp_3m")
    ),
    "sde_noise_of_one_way": Mistake(
        "sampler.dpmpp_2m_sde", "-2 * self.eta", "-self.eta", limit(DPMpp2MSDE())
    ),
    "unipc_without_factorials": Mistake(
        "sampler.unipc_weights",
        "phi * math.factorial(i) / kernel",
        "phi / kernel",
        order("unipc_3"),
    ),
    "unipc_corrects_the_corrected": Mistake(
        "sampler.unipc", "first_order(schedule, base, past[0][1], times[k - 1], t)", "x",
        order("unipc_2"),
    ),
    "deis_time_reversed": Mistake(
        "sampler.deis", "(-inside).exp()", "inside.exp()", lambda: test_parity.test_deis(2)
    ),
    "drift_without_noise": Mistake(
        "sampler.euler_maruyama", "+ (above + below) * pull", "", limit(EulerMaruyama())
    ),
    "corrector_half_as_bold": Mistake(
        "sampler.pc", "2 * kept", "kept", lambda: test_oracles.test_corrector(Linear())
    ),
    # Each image is its own.
    "norms_over_the_batch": Mistake(
        "sampler.pc", "dim=(1, 2, 3), keepdim=True", "", alone("pc")
    ),
    "error_over_the_batch": Mistake(
        "sampler.rk45", ".flatten(1).mean(1).sqrt()", ".mean().sqrt().expand(len(rest))",
        test_sampler.test_adaptive_steps_are_each_images_own,
    ),
    "noise_of_the_batch": Mistake(
        "sampler.noise", "[stream.standard_normal(", "[self.streams[0].standard_normal(",
        alone("ddpm_fixedsmall"),
    ),
    # Schedules and times.
    "alpha_bar_for_alpha": Mistake(
        "schedule.discrete", ".cumsum(0) / 2", ".cumsum(0)", test_schedule.test_ddpm_table
    ),
    "ends_not_rescaled": Mistake(
        "schedule.ramp", "1000 / self.levels if self.rescale else 1.0", "1.0",
        lambda: test_schedule.test_ends_follow_the_number_of_levels(100),
    ),
    "cosine_without_offset": Mistake(
        "schedule.cosine", "(t + self.offset)", "t", test_schedule.test_cosine_table
    ),
    "rate_for_its_half": Mistake(
        "schedule.vp", "(self.beta_max - self.beta_min) / 4",
        "(self.beta_max - self.beta_min) / 2",
        test_schedule.test_continuous_vp_is_ddpm_with_endless_levels,
    ),
    "first_level_moved": Mistake(
        "schedule.discrete", "(alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])",
        "(alpha - alpha[-1]) / (1 - alpha[-1])", test_schedule.test_zero_terminal_snr,
    ),
    "level_truncated": Mistake(
        "schedule.base", "torch.where((level - nearest).abs() < 1e-6, nearest, level)",
        "level.floor()", test_schedule.test_level_is_the_papers_index,
    ),
    "more_steps_than_asked": Mistake(
        "schedule.spacing", "torch.arange(steps - 1, -1, -1, dtype=",
        "torch.arange((levels - 1) // (levels // steps), -1, -1, dtype=",
        lambda: test_spacing.test_exactly_that_many_intervals("leading", "linear"),
    ),
    "times_below_the_first_level": Mistake(
        "schedule.spacing", "torch.linspace(1, schedule.t_min, steps", "torch.linspace(1, 1e-5, steps",
        lambda: test_spacing.test_exactly_that_many_intervals("linspace", "linear"),
    ),
    "even_sigma_for_even_root": Mistake(
        "schedule.spacing", "clamp(min=-12) / rho)", "clamp(min=-12))",
        lambda: test_spacing.test_karras_steps(18),
    ),
    # Parametrisations, likelihoods, tuning.
    "v_upside_down": Mistake(
        "denoiser.prediction", "-sigma * unit, unit", "sigma * unit, unit", prediction("v")
    ),
    "edm_skip_of_deviations": Mistake(
        "denoiser.prediction", "alpha * self.sigma_data**2 * unit**2",
        "alpha * self.sigma_data * unit**2", prediction("edm"),
    ),
    "score_over_sigma": Mistake(
        "denoiser.base", "- x_t) / sigma**2", "- x_t) / sigma",
        lambda: test_denoiser.test_gaussian_score_is_the_gradient_of_its_density(Linear()),
    ),
    "volume_forgotten": Mistake(
        "sampler.likelihood", "return prior + gained", "return prior",
        lambda: test_likelihood.test_log_density_of_a_gaussian("linear"),
    ),
    "image_taken_for_its_noisy_self": Mistake(
        "sampler.encode", "sigma * _noise_in(denoiser, alpha * x, rising[0], label)", "sigma",
        lambda: test_likelihood.test_encoding_carries_quantiles_to_quantiles(
            *test_likelihood.SAMPLERS["unipc"], "linear"
        ),
    ),
    "costliest_path": Mistake(
        "sampler.tuned", "best[:, -1].argmin()", "best[1:, -1].argmin()",
        lambda: test_tuned.test_shortest_path_against_all_paths(3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_noticed(mistake, monkeypatch):
    make(mistake, monkeypatch)
    with pytest.raises((AssertionError, RuntimeError, UsageError)):
        mistake.check()


def make(mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the module's functions the code of its mistaken twin, wherever they are in use."""
    module = importlib.import_module(f"diffgen.{mistake.module}")
    source = inspect.getsource(module)
    assert mistake.right in source, "the line has changed: say anew how it could go wrong"
    twin = types.ModuleType(module.__name__)
    exec(compile(source.replace(mistake.right, mistake.wrong), "twin", "exec"), twin.__dict__)
    mistaken = dict(functions(twin))
    for name, function in functions(module):
        monkeypatch.setattr(function, "__code__", mistaken[name].__code__)


def functions(module: types.ModuleType) -> Iterator[tuple[str, types.FunctionType]]:
    """The functions written in a module, those of its classes included."""
    for holder in [module, *vars(module).values()]:
        if holder is module or (inspect.isclass(holder) and holder.__module__ == module.__name__):
            for value in vars(holder).values():
                plain = unwrapped(value)
                if isinstance(plain, types.FunctionType) and plain.__module__ == module.__name__:
                    yield plain.__qualname__, plain


def unwrapped(value: object) -> object:
    """The function inside a property, a cached one or a decorated one."""
    if isinstance(value, property):
        return value.fget
    if isinstance(value, functools.cached_property):
        return value.func
    return inspect.unwrap(value) if callable(value) else value


@pytest.mark.parametrize("name", ["eta_on_the_variance", "half_the_step", "no_final_denoise"])
def test_nothing_is_noticed_where_nothing_is_wrong(name):
    """Three of the checks on the code as it is; all run as tests of their own modules."""
    MISTAKES[name].check()
