"""The loss against the papers' formulas; draws, averages and rates against closed forms."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest
import torch
from running import classes
from torch import nn

from diffgen.config.build import build
from diffgen.config.recipe import ModelSettings, recipe_of
from diffgen.dataset.pixels import RANGES
from diffgen.denoiser.base import Preconditioned
from diffgen.denoiser.noise_input import NOISE_INPUTS
from diffgen.denoiser.prediction import Edm
from diffgen.errors import UsageError
from diffgen.schedule.base import match
from diffgen.schedule.cosine import Cosine
from diffgen.schedule.edm import EDM
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.linear import Linear
from diffgen.schedule.ve import VE
from diffgen.schedule.vp import VP
from diffgen.training.ema import Ema, EmaSettings, exponent
from diffgen.training.loss import Loss
from diffgen.training.module import LossByTime, Module
from diffgen.training.optimizer import OptimizerSettings
from diffgen.training.progress import Reporter
from diffgen.training.random_numbers import RandomNumbers
from diffgen.training.times import LogNormal
from diffgen.training.weighting import snr_of

B, SHAPE = 6, (2, 4, 4)
PREDICTIONS = classes("prediction")
WEIGHTINGS = {name: cls() for name, cls in classes("weighting").items()}
TIMES = {name: cls() for name, cls in classes("times").items()}
uniform, antithetic, stratified = (TIMES[k] for k in ("uniform", "antithetic", "stratified"))
LADDER = Geometric(sigma_max=5.0, sigma_min=0.01, levels=10)


class Wave(nn.Module):
    """A network whose answer depends on all it is given; it keeps what that was."""

    def forward(self, x, told, label):
        self.x, self.told = x, told
        heard = 0 if told is None else told.reshape(-1, 1, 1, 1) / 1000
        return torch.sin(3 * x) + heard


class Negative(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, told, label):
        return -self.network(x, told, label)


def images():
    return torch.randn(B, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def draws(step=0, seed=0, batch_size=B, position=None):
    position = torch.arange(batch_size) if position is None else torch.tensor(position)
    return RandomNumbers(seed, step, batch_size, position)


def loss_of(schedule, prediction, weighting="simple", told="nothing", network=None, **options):
    scaling = PREDICTIONS[prediction]()
    denoiser = Preconditioned(network or Wave(), schedule, scaling, NOISE_INPUTS[told])
    return Loss(denoiser, uniform, WEIGHTINGS[weighting], **options)


def weighting_of(name, **settings):
    return build("weighting", {"name": name, **settings})


def test_on_eps_it_is_ddpms_l_simple():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    loss, x0 = loss_of(Linear(), "eps", told="level"), images()
    errors, t = loss(x0, None, draws(step=3))
    eps, index = draws(step=3).normal(x0), (t * 1000).round().long() - 1
    kept = alpha_bar[index].reshape(-1, 1, 1, 1)
    x_t = kept.sqrt() * x0 + (1 - kept).sqrt() * eps
    wave = torch.sin(3 * x_t) + index.double().reshape(-1, 1, 1, 1) / 1000
    torch.testing.assert_close(errors, (eps - wave).square().mean((1, 2, 3)), rtol=1e-9, atol=0)
    torch.testing.assert_close(loss.denoiser.network.told, index.double(), rtol=0, atol=0)


def test_on_the_score_it_is_ncsns_weighted_score_matching():
    loss, x0 = loss_of(LADDER, "score", sum_pixels=True), images()
    errors, t = loss(x0, None, draws())
    sigmas = torch.logspace(math.log10(0.01), math.log10(5), 10, dtype=torch.float64)
    sigma = sigmas[(t * 10).round().long() - 1].reshape(-1, 1, 1, 1)
    noisy = x0 + sigma * draws().normal(x0)
    score = torch.sin(3 * noisy) / sigma
    matched = (score + (noisy - x0) / sigma**2).square().sum((1, 2, 3)) / 2
    torch.testing.assert_close(errors, sigma.flatten() ** 2 * matched, rtol=1e-9, atol=0)
    assert loss.denoiser.network.told is None


class Rounded(nn.Module):
    """Notes what it is given, and answers in the bfloat16 that autocast makes of convolutions."""

    def forward(self, x, told, label):
        self.x = x
        return (x.bfloat16() / 3).sin()


@pytest.mark.parametrize("prediction", ["score", "raw_score", "eps", "v"])
def test_only_the_network_is_rounded_under_autocast(prediction):
    """Noise, noisy images and errors stay in float32, also where sigma is least."""
    loss, x0 = loss_of(LADDER, prediction, network=Rounded(), sum_pixels=True), images().float()
    plain, _ = loss(x0, None, draws())
    given = loss.denoiser.network.x
    with torch.autocast("cpu", torch.bfloat16):
        errors, _ = loss(x0, None, draws())
    assert loss.denoiser.network.x.dtype == errors.dtype == torch.float32
    assert torch.equal(loss.denoiser.network.x, given)
    assert torch.equal(errors, plain)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), LADDER], ids=lambda s: type(s).__name__)
def test_ncsns_loss_is_ddpms_loss(schedule):
    """The score's network, sigma times the score, is minus the eps network."""
    eps = loss_of(schedule, "eps")
    score = loss_of(schedule, "score", network=Negative(Rescaled(schedule)))
    for step in range(5):
        mine, theirs = (loss(images(), None, draws(step))[0] for loss in (eps, score))
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=0)


class Rescaled(Wave):
    """The wave on x_t over the norm that eps' scaling divides by; the noise is found by trial."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.step = schedule, -1

    def forward(self, x, told, label):
        self.step += 1
        t = uniform(draws(self.step).uniform("time"), self.schedule)
        alpha, sigma = self.schedule.at(t, x)
        return super().forward(x / (alpha**2 + sigma**2).sqrt(), told, label)


PAPERS = {
    "simple": lambda snr: snr,
    "velocity": lambda snr: 1 + snr,
    "flow": lambda snr: (1 + snr.sqrt()) ** 2,
    "min_snr": lambda snr: torch.minimum(snr, torch.tensor(5.0)),
    "soft_min_snr": lambda snr: 5 * snr / (snr + 5),
    "edm": lambda snr: (1 / snr + 0.25) / (0.25 / snr),
}


def discrete(alpha, sigma):
    """g^2 at each of a table's levels: sigma_i^2 - (alpha_i / alpha_(i-1))^2 sigma_(i-1)^2, a
    level lasting 1 / L; it is DDPM's L beta_i, and L (sigma_i^2 - sigma_(i-1)^2) on NCSN's."""
    before = torch.cat([torch.ones(1), alpha[:-1]]), torch.cat([torch.zeros(1), sigma[:-1]])
    return len(alpha) * (sigma**2 - (alpha / before[0] * before[1]) ** 2)


BETA = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
TOP = torch.logspace(math.log10(0.01), math.log10(5), 10, dtype=torch.float64)
DIFFUSIONS = {
    "ddpm": (Linear(), lambda t: 1000 * BETA[(t * 1000).round().long() - 1]),
    "ncsn": (LADDER, lambda t: discrete(torch.ones(10), TOP)[(t * 10).round().long() - 1]),
    "vp": (VP(), lambda t: 0.1 + 19.9 * t),
    "ve": (VE(sigma_max=50.0), lambda t: (0.01 * 5000**t) ** 2 * 2 * math.log(5000)),
}


@pytest.mark.parametrize(("schedule", "diffusion"), DIFFUSIONS.values(), ids=DIFFUSIONS)
def test_likelihood_weighs_the_score_by_the_squared_diffusion(schedule, diffusion):
    loss, x0 = loss_of(schedule, "score", "likelihood"), images()
    errors, t = loss(x0, None, draws())
    alpha, sigma = (match(f(t), x0) for f in (schedule.alpha, schedule.sigma))
    eps = draws().normal(x0)
    score = loss.denoiser.score(alpha * x0 + sigma * eps, t)
    expected = diffusion(t) * (score + eps / sigma).square().mean((1, 2, 3))
    torch.testing.assert_close(errors, expected, rtol=1e-6, atol=0)


def test_likelihood_bounds_the_divergence():
    """Theorem 1 is an equality for a Gaussian taken for another: KL at the image, less KL at the
    noise, is half the mean of g^2 times the squared difference of the scores."""
    schedule, true, taken = VP(), 0.3, 0.7
    t = torch.linspace(1e-3, 1, 4001, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    ours, theirs = (alpha**2 * v + sigma**2 for v in (true, taken))
    g2 = WEIGHTINGS["likelihood"](snr_of(alpha, sigma), t, schedule) * sigma**2
    gap = (1 / ours - 1 / theirs) ** 2 * ours
    divergence = 0.5 * (ours / theirs - 1 - (ours / theirs).log())
    found = torch.trapezoid(0.5 * g2 * gap, t)
    assert found.item() == pytest.approx((divergence[0] - divergence[-1]).item(), rel=1e-4)


def test_edms_weight_knows_the_datas_deviation():
    """With that of the scaling, the network's error is plain again."""
    loss, x0 = loss_of(LADDER, "edm", "edm"), images()
    scaling = Edm(sigma_data=0.3)
    denoiser = Preconditioned(Wave(), LADDER, scaling, NOISE_INPUTS["nothing"])
    errors, t = replace(loss, denoiser=denoiser, weighting=weighting_of("edm", sigma_data=0.3))(
        x0, None, draws()
    )
    x_t = x0 + match(LADDER.sigma(t), x0) * draws().normal(x0)
    skip, out, _ = (match(c, x0) for c in scaling.coefficients(LADDER.alpha(t), LADDER.sigma(t)))
    plain = (denoiser.raw(x_t, t) - (x0 - skip * x_t) / out).square().mean((1, 2, 3))
    torch.testing.assert_close(errors, plain, rtol=1e-9, atol=0)
    assert weighting_of("edm") == WEIGHTINGS["edm"]


def test_weights_stay_finite_where_no_trace_of_the_image_is_left():
    schedule = Linear(zero_snr=True)
    last = torch.ones(B, dtype=torch.float64)
    for weighting in WEIGHTINGS:
        loss = replace(loss_of(schedule, "v", weighting), times=lambda *_: last)
        errors, _ = loss(images(), None, draws())
        assert errors.isfinite().all(), weighting
    plain = replace(loss_of(schedule, "v", "velocity"), times=lambda *_: last)
    errors, _ = plain(images(), None, draws())
    expected = torch.sin(3 * draws().normal(images())) + images()  # v = -x0 where alpha = 0
    torch.testing.assert_close(errors, expected.square().mean((1, 2, 3)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("schedule", [Linear(), LADDER], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weighting", PAPERS)
def test_each_weighting_is_the_papers_weight_of_the_error_of_x0(weighting, prediction, schedule):
    loss, x0 = loss_of(schedule, prediction, weighting), images()
    errors, t = loss(x0, None, draws())
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x_t = match(alpha, x0) * x0 + match(sigma, x0) * draws().normal(x0)
    estimate = loss.denoiser(x_t, t)
    expected = PAPERS[weighting]((alpha / sigma) ** 2) * (estimate - x0).square().mean((1, 2, 3))
    torch.testing.assert_close(errors, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("gamma", [0.3, 5.0, 20.0])
def test_min_snr_caps_where_it_is_told(gamma):
    """min(snr, gamma) and gamma snr / (snr + gamma) on x0, over snr on eps."""
    t = torch.linspace(0.001, 1, 500, dtype=torch.float64)
    snr = (Linear().alpha(t) / Linear().sigma(t)) ** 2
    hard, soft = (
        weighting_of(name, gamma=gamma)(snr, t, Linear()) for name in ("min_snr", "soft_min_snr")
    )
    torch.testing.assert_close(hard * snr, torch.minimum(snr, torch.full_like(snr, gamma)))
    torch.testing.assert_close(soft * snr, 1 / (1 / snr + 1 / gamma))


def test_a_recipe_sets_the_times_and_the_weights():
    """One that leaves their settings open has the papers' numbers."""
    recipe = {
        "model": {"name": "x"},
        "schedule": {"name": "linear", "levels": 50},
        "network": {"name": "unet", "width": 8, "groups": 4, "multipliers": [1], "blocks": 1},
        "prediction": {"name": "eps"},
        "times": {"name": "log_normal"},
        "weighting": {"name": "min_snr"},
    }
    given = {
        "times": {"name": "log_normal", "mean": 0.5, "std": 0.1},
        "weighting": {"name": "min_snr", "gamma": 2.0},
    }
    for keys, times, cap in (({}, LogNormal(-1.2, 1.2), 5.0), (given, LogNormal(0.5, 0.1), 2.0)):
        made = recipe_of({**recipe, **keys}).objective((1, 8, 8), 0)
        assert made.times == times
        assert made.weighting == weighting_of("min_snr", gamma=cap)
    with pytest.raises(UsageError, match=r"times\.std=0"):
        recipe_of({**recipe, "times": {"name": "log_normal", "std": 0}})


def test_edms_weight_makes_the_error_of_its_network_plain():
    loss, x0 = loss_of(LADDER, "edm", "edm"), images()
    errors, t = loss(x0, None, draws())
    sigma = LADDER.sigma(t).reshape(-1, 1, 1, 1)
    x_t = x0 + sigma * draws().normal(x0)
    skip, out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25).sqrt()
    network = torch.sin(3 * x_t / (sigma**2 + 0.25).sqrt())
    plain = (network - (x0 - skip * x_t) / out).square().mean((1, 2, 3))
    torch.testing.assert_close(errors, plain, rtol=1e-9, atol=0)
    assert Edm() == PREDICTIONS["edm"]()


class Doubtful(Wave):
    """A network that expects the more error the higher the level."""

    def log_uncertainty(self, told):
        return told / 500 - 1


def test_a_network_that_expects_its_error_is_weighed_by_it():
    """Karras et al. 2024, equation 21: least where exp(u) is the error."""
    options = {"schedule": Linear(), "prediction": "eps", "told": "level"}
    plain, t = loss_of(**options)(images(), None, draws())
    expected = (t * 1000 - 1) / 500 - 1
    errors, _ = loss_of(**options, network=Doubtful())(images(), None, draws())
    torch.testing.assert_close(errors, plain / expected.exp() + expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_a_batch_may_share_one_level(times):
    """Another one at each step, in every part of the batch the same."""
    each = replace(loss_of(Linear(), "eps"), times=times)
    shared = replace(each, per_batch=True)
    found = [shared(images(), None, draws(step))[1] for step in range(20)]
    assert all(len(t.unique()) == 1 for t in found)
    assert len(torch.cat(found).unique()) > 15
    for position in ([0, 1], [5, 4, 3, 2]):
        parts = draws(3, position=position)
        assert torch.equal(shared(images()[position], None, parts)[1], found[3][position])
    assert len(each(images(), None, draws())[1].unique()) > 1


def evenly(count):
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def test_every_level_is_trained_alike():
    for schedule, levels in ((Linear(), 1000), (LADDER, 10)):
        index = uniform(evenly(3 * levels), schedule) * levels - 1
        assert torch.equal(index.round().long().bincount(), torch.full((levels,), 3))
        torch.testing.assert_close(index, index.round(), rtol=0, atol=1e-9)
    ends = uniform(torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64), Linear())
    assert ends.tolist() == [1 / 1000, 1.0]


def test_flowing_time_stays_above_its_least():
    t = uniform(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), schedule := EDM())
    assert t.tolist() == pytest.approx([schedule.t_min, (1 + schedule.t_min) / 2, 1])


@pytest.mark.parametrize("size", [8, 7])
def test_antithetic_times_come_in_pairs(size):
    u = draws(batch_size=size).uniform("time")
    level = antithetic(u, Linear()) * 1000 - 1
    half = (size + 1) // 2
    torch.testing.assert_close(
        level[half:], 999 - level[: size - half], rtol=0, atol=1e-6, check_dtype=False
    )
    torch.testing.assert_close(level[:half], uniform(u, Linear())[:half] * 1000 - 1)
    assert antithetic(torch.zeros(2, dtype=torch.float64), Linear()).tolist() == [0.001, 1.0]


def test_stratified_times_fill_every_stratum():
    t = stratified(draws(batch_size=50).uniform("time"), Linear())
    assert torch.equal(
        (t * 1000 - 1).round().div(20).floor().sort()[0], torch.arange(50.0).double()
    )


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (-0.4, 1.0)], ids=["EDM", "EDM2"])
def test_log_normal_times_have_these_moments(mean, std):
    schedule, log_normal = EDM(), LogNormal(mean, std)
    log_sigma = -schedule.log_snr(log_normal(evenly(20_000), schedule))
    assert log_sigma.mean().item() == pytest.approx(mean, abs=1e-3)
    assert log_sigma.std().item() == pytest.approx(std, abs=1e-3)
    extremes = log_normal(torch.tensor([0.0, 1.0], dtype=torch.float64), schedule)
    assert schedule.t_min <= extremes.min()
    assert extremes.max() <= 1


KINDS = {
    "time": lambda d, like: d.local(d.uniform("time")),
    "label": lambda d, like: d.local(d.uniform("label")),
    "noise": lambda d, like: d.normal(like),
    "dequantise": lambda d, like: d.uniform_like(like),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_position_draws_the_same_on_any_device_and_micro_batch(kind):
    whole = KINDS[kind](draws(), torch.empty(B, *SHAPE))
    for position in ([0, 1, 2], [3, 4, 5], [4], [5, 0]):
        part = KINDS[kind](draws(position=position), torch.empty(len(position), *SHAPE))
        assert torch.equal(part, whole[position])


@pytest.mark.parametrize("kind", KINDS)
def test_draws_differ_between_steps_seeds_and_positions_and_repeat(kind):
    like = torch.empty(B, *SHAPE)
    first = KINDS[kind](draws(step=1), like)
    assert torch.equal(first, KINDS[kind](draws(step=1), like))
    for other in (draws(step=2), draws(step=1, seed=1), draws(step=0)):
        assert not torch.isclose(first, KINDS[kind](other, like)).any()
    assert len(first.unique()) == first.numel()


def test_streams_do_not_meet():
    d = draws(batch_size=1000)
    time, label = d.uniform("time"), d.uniform("label")
    assert not torch.isclose(time, label).any()
    pixels = d.uniform_like(torch.empty(1000)).double()
    for a, b in ((time, label), (time, pixels), (label, pixels)):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 4 / math.sqrt(1000)


def test_the_noise_is_unit_normal():
    noise = draws(batch_size=100).normal(torch.empty(100, 10_00))
    assert abs(noise.mean()) < 4 / math.sqrt(noise.numel())
    assert abs(noise.std() - 1) < 4 / math.sqrt(2 * noise.numel())


def dropout_of(step, rank, position):
    draws(step=step, position=position).seed_dropout(rank, torch.device("cpu"))
    return torch.rand(4)


def test_dropout_follows_step_rank_and_micro_batch():
    before = dropout_of(1, 0, [0, 1])
    torch.rand(100)
    assert torch.equal(before, dropout_of(1, 0, [0, 1]))
    for step, rank, position in ((2, 0, [0, 1]), (1, 1, [0, 1]), (1, 0, [2, 3])):
        assert not torch.isclose(before, dropout_of(step, rank, position)).any()


def module_of(batch_size=B, num_classes=10, label_dropout=0.1, dequantise=False, header=None):
    return Module(
        loss_of(Linear(), "eps", network=nn.Linear(2, 2)),
        RANGES["symmetric"],
        OptimizerSettings(),
        header or {},
        seed=0,
        batch_size=batch_size,
        num_classes=num_classes,
        label_dropout=label_dropout,
        dequantise=dequantise,
        channels_last=False,
    )


def test_labels_are_hidden_one_by_one_at_their_rate():
    n, rate = 100_000, 0.1
    label = torch.arange(n) % 10
    hidden = module_of(n, label_dropout=rate).labels({"label": label}, draws(batch_size=n))
    null = hidden == 10
    assert abs(null.double().mean() - rate) < 4 * math.sqrt(rate * (1 - rate) / n)
    assert torch.equal(hidden[~null], label[~null])
    at_noise = draws(batch_size=n).uniform("time")[null].mean()
    assert abs(at_noise - 0.5) < 4 / math.sqrt(12 * rate * n)
    again = module_of(n, label_dropout=rate).labels({"label": label}, draws(1, batch_size=n))
    assert not torch.equal(again, hidden)


def test_a_model_without_classes_is_told_no_label():
    assert module_of(num_classes=0).labels({}, draws()) is None
    kept = module_of(label_dropout=0.0).labels({"label": torch.arange(B)}, draws())
    assert torch.equal(kept, torch.arange(B))


def test_dequantised_pixels_are_even_within_their_bin():
    pixels = torch.arange(256, dtype=torch.uint8).expand(100, 256).contiguous()
    x = module_of(100, dequantise=True).images(pixels[:, None, None], draws(batch_size=100))
    byte = (x + 1) * 128
    inside = byte[:, 0, 0] - torch.arange(256)
    assert inside.min() > -1e-4
    assert inside.max() < 1 + 1e-4
    assert abs(inside.mean() - 0.5) < 4 / math.sqrt(12 * inside.numel())
    plain = module_of(100).images(pixels[:, None, None], draws(batch_size=100))
    torch.testing.assert_close(plain[0, 0, 0], torch.linspace(-1, 1, 256))


def test_a_run_goes_on_only_with_the_data_it_began_with():
    header = {"shape": [1, 8, 8], "classes": ["0", "1"]}
    module = module_of(header=header)
    module.on_load_checkpoint({"diffgen": header})
    with pytest.raises(UsageError, match="classes"):
        module.on_load_checkpoint({"diffgen": {**header, "classes": ["0", "1", "2"]}})
    with pytest.raises(UsageError, match="shape"):
        module.on_load_checkpoint({"diffgen": {**header, "shape": [3, 8, 8]}})


class Training:
    """A weight that takes given values step by step, and the callback that averages it."""

    def __init__(self, profiles, start=0.0, step=0, averages=None):
        self.ema, self.trainer = Ema(profiles), SimpleNamespace(global_step=0)
        self.weight = nn.Parameter(torch.tensor([start], dtype=torch.float64))
        network = nn.Module()
        network.weight = self.weight
        self.module = SimpleNamespace(denoiser=SimpleNamespace(network=network))
        if averages:
            self.ema.on_load_checkpoint(self.trainer, self.module, {"ema": averages})
        self.ema.on_fit_start(self.trainer, self.module)
        self.trainer.global_step = step  # known only after on_fit_start, as in Lightning
        self.ema.on_train_start(self.trainer, self.module)

    def go(self, value, micro_batches=1):
        for left in reversed(range(micro_batches)):
            if left == 0:
                self.weight.data = torch.tensor([value], dtype=torch.float64)
                self.trainer.global_step += 1
            self.ema.on_train_batch_end(self.trainer, self.module)

    def average(self, name="a"):
        return self.ema.averages[name]["weight"].item()


VALUES = [math.sin(7 * k) for k in range(1, 41)]


def closed_form(betas):
    """start = 1: the sum of each value times what is left of its share."""
    weight, total = 1.0, 0.0
    for value, beta in zip(reversed(VALUES), reversed(betas), strict=True):
        total += weight * (1 - beta) * value
        weight *= beta
    return total + weight


def shares(width):
    """EDM2's power function: value k has (k/n)^(g+1) - ((k-1)/n)^(g+1) of the average."""
    g, n = exponent(width), len(VALUES)
    return sum(
        ((k / n) ** (g + 1) - ((k - 1) / n) ** (g + 1)) * value
        for k, value in enumerate(VALUES, 1)
    )


PROFILES = {
    "decay": (EmaSettings(0.9, warmup=False), closed_form([0.9] * 40)),
    "warmup": (
        EmaSettings(0.7),
        closed_form([min(0.7, (1 + n) / (10 + n)) for n in range(1, 41)]),
    ),
    "width": (EmaSettings(width=0.1), shares(0.1)),
    "ramp": (  # a half-life of 1/5 of the run, then the decay's 6.6 steps
        EmaSettings(0.9, warmup=False, ramp=0.2),
        closed_form([min(0.9, 0.5 ** (5 / n)) for n in range(1, 41)]),
    ),
}


@pytest.mark.parametrize(("profile", "expected"), PROFILES.values(), ids=PROFILES)
def test_an_average_is_its_closed_form(profile, expected):
    training = Training({"a": profile}, start=1.0)
    for value in VALUES:
        training.go(value)
    assert training.average() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("profile", "expected"), PROFILES.values(), ids=PROFILES)
def test_an_average_waits_for_whole_steps_also_after_resuming(profile, expected):
    first = Training({"a": profile}, start=1.0)
    for value in VALUES[:17]:
        first.go(value, micro_batches=3)
    second = Training({"a": profile}, VALUES[16], 17, first.ema.averages)
    for value in VALUES[17:]:
        second.go(value, micro_batches=2)
    assert second.average() == pytest.approx(expected, rel=1e-12)


def test_widths_are_those_of_edm2():
    assert exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert exponent(0.10) == pytest.approx(6.94, abs=0.005)
    for width in (0.02, 0.2):  # the relative deviation of t^g on [0, 1]
        g = exponent(width)
        assert math.sqrt((g + 1) / (g + 3)) / (g + 2) == pytest.approx(width)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ramp": 0.1, "width": 0.1},
        {"decay": 0.9, "ramp": 1.0},
        {"decay": 0.9, "width": 0.1},
        {"decay": 1.0},
        {"decay": 0.0},
        {"width": 0.3},
    ],
    ids=str,
)
def test_profiles_that_mean_nothing_are_refused(settings):
    with pytest.raises(UsageError, match="ema"):
        EmaSettings(**settings)


def test_several_averages_stand_beside_untouched_raw_weights():
    training = Training({"a": EmaSettings(0.5, warmup=False), "b": EmaSettings(0.9, warmup=False)})
    for value in (4.0, 8.0):
        training.go(value)
    assert training.average("a") == pytest.approx(5.0)
    assert training.average("b") == pytest.approx(0.9 * 0.4 + 0.8)
    assert training.weight.item() == 8
    saved = {}
    training.ema.on_save_checkpoint(training.trainer, training.module, saved)
    assert saved["ema"].keys() == {"a", "b"}


def test_the_average_is_lent_to_the_network_and_taken_back_after_an_error():
    training = Training({"a": EmaSettings(0.5, warmup=False), "b": EmaSettings(0.9, warmup=False)})
    training.go(1.0)
    raw = training.weight.data_ptr()
    seen = []

    def fail():
        with training.ema.weights(training.module, "b"):
            seen.append(training.weight.item())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert seen == pytest.approx([0.1])
    assert training.weight.data_ptr() == raw
    assert training.weight.item() == 1
    with training.ema.weights(training.module):
        assert training.weight.item() == pytest.approx(0.5)
    assert training.weight.item() == 1
    assert training.average() == pytest.approx(0.5)


def test_without_an_average_the_network_keeps_its_weights():
    training = Training({})
    training.go(3.0)
    with training.ema.weights(training.module):
        assert training.weight.item() == 3


def test_the_rate_rises_evenly_and_falls_along_a_cosine():
    constant = OptimizerSettings(warmup=4)
    assert [constant.factor(k, 100) for k in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1, 1, 1]
    assert OptimizerSettings().factor(0, 100) == 1
    cosine = OptimizerSettings(decay="cosine")
    expected = [math.cos(math.pi * k / 200) ** 2 for k in range(101)]
    assert [cosine.factor(k, 100) for k in range(101)] == pytest.approx(expected, abs=1e-12)
    both = OptimizerSettings(decay="cosine", warmup=50)
    assert both.factor(24, 100) == pytest.approx(0.5 * math.cos(math.pi * 24 / 200) ** 2)


def test_the_rate_falls_as_the_root_of_the_steps_after_they_are_held():
    """EDM2's rate is alpha_ref / sqrt(max(t / t_ref, 1))."""
    held = OptimizerSettings(decay="inverse_sqrt", hold=100, warmup=10)
    found = [held.factor(k, 1000) for k in (4, 9, 99, 399, 899)]
    assert found == pytest.approx([0.5, 1, 1, 1 / 2, 1 / 3])
    after = OptimizerSettings(decay="inverse_sqrt", warmup=50)
    assert [after.factor(k, 1000) for k in (24, 49, 199)] == pytest.approx([0.5, 1, 0.5])


def test_a_warm_up_as_long_as_the_run_is_warned_of():
    assert OptimizerSettings(warmup=99).warning(100) is None
    warning = OptimizerSettings(warmup=5000).warning(4000)
    assert warning is not None
    assert "give optimizer.warmup=400, or train" in warning
    assert OptimizerSettings(warmup=400).warning(4000) is None


def test_a_rate_held_to_the_end_of_the_run_is_warned_of():
    settings = OptimizerSettings(decay="inverse_sqrt", hold=4000)
    warning = settings.warning(4000)
    assert warning is not None
    assert "the rate never falls; give optimizer.hold=2000, or train" in warning
    assert settings.warning(4001) is None


class Small(nn.Module):
    """A layer of pixels, an inner kernel, a matrix, an embedding, biases."""

    def __init__(self):
        super().__init__()
        self.first, self.inner = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3)
        self.matrix, self.embedding = nn.Linear(24, 12), nn.Embedding(10, 12)

    def forward(self, x, label):
        x = self.inner(self.first(x).relu()).mean((2, 3))
        return (self.matrix(x) * self.embedding(label)).sum(1)


def stepped(network, optimizer, steps=3):
    for k in range(steps):
        draws = torch.Generator().manual_seed(k)
        x = torch.randn(8, 3, 8, 8, generator=draws)
        optimizer.zero_grad()
        network(x, torch.arange(8)).square().mean().backward()
        optimizer.step()
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def small(**settings):
    torch.manual_seed(0)
    network = Small()
    return network, OptimizerSettings(lr=0.01, weight_decay=0.1, **settings).build(network)


@pytest.mark.parametrize(
    ("layout", "rate"), [(torch.contiguous_format, None), (torch.channels_last, 0.03)]
)
def test_muon_is_torchs_on_matrices_and_flattened_kernels_and_adamw_on_the_rest(layout, rate):
    network, optimizer = small(momentum=0.95, matrix_lr=rate)
    found = stepped(network.to(memory_format=layout), optimizer)
    network, _ = small()
    kernels = {
        name: nn.Parameter(p.detach().flatten(1))
        for name, p in network.named_parameters()
        if name in ("inner.weight", "matrix.weight")
    }
    rate = rate or 0.01
    muon = torch.optim.Muon(kernels.values(), rate, 0.1, 0.95, adjust_lr_fn="match_rms_adamw")
    others = [p for name, p in network.named_parameters() if name not in kernels]
    adam = torch.optim.AdamW(others, 0.01, weight_decay=0.1)

    class Both:
        def zero_grad(self):
            network.zero_grad()

        def step(self):
            for name, flat in kernels.items():
                flat.grad = network.get_parameter(name).grad.flatten(1)
            muon.step()
            adam.step()
            for name, flat in kernels.items():
                parameter = network.get_parameter(name)
                parameter.data = flat.detach().reshape(parameter.shape).clone()

    torch.testing.assert_close(found, stepped(network, Both()), rtol=2e-2, atol=2e-4)
    plain = stepped(*small())
    assert not torch.allclose(found["inner.weight"], plain["inner.weight"], atol=1e-3)


def test_muon_goes_on_from_its_state_to_the_bit():
    unbroken = stepped(*small(momentum=0.9), steps=3)
    network, optimizer = small(momentum=0.9)
    stepped(network, optimizer, steps=2)
    kept = optimizer.state_dict()
    again, other = small(momentum=0.9)
    again.load_state_dict(network.state_dict())
    other.load_state_dict(kept)
    draws = torch.Generator().manual_seed(2)
    again(torch.randn(8, 3, 8, 8, generator=draws), torch.arange(8)).square().mean().backward()
    other.step()
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, unbroken[name]), name


def test_the_rate_of_both_follows_the_schedule():
    network, optimizer = small(momentum=0.9)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.0)
    after = stepped(network, optimizer, steps=1)
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_a_network_without_matrices_is_refused_for_muon():
    with pytest.raises(UsageError, match="take optimizer=adam"):
        OptimizerSettings(momentum=0.9).build(nn.Conv2d(1, 1, 3))


def test_a_rate_of_muon_is_refused_for_adam():
    with pytest.raises(UsageError, match="add optimizer=muon"):
        OptimizerSettings(matrix_lr=0.01).build(nn.Conv2d(1, 1, 3))


def test_without_weight_decay_the_optimiser_is_adam():
    settings = OptimizerSettings(lr=0.1, betas=(0.8, 0.9), eps=1e-3)
    mine, theirs = (torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ours = settings.adam([nn.Parameter(mine)])
    mine = ours.param_groups[0]["params"][0]
    adam = torch.optim.Adam([theirs], 0.1, (0.8, 0.9), 1e-3)
    for k in range(3):
        for parameter, optimiser in ((mine, ours), (theirs, adam)):
            parameter.grad = torch.tensor([1.0, -2.0, 0.1 * k], dtype=torch.float64)
            optimiser.step()
    torch.testing.assert_close(mine.data, theirs.data)


@pytest.mark.parametrize("bar", [True, False], ids=["bar", "lines"])
def test_progress_is_told_before_the_first_row_of_the_log(bar, monkeypatch, capsys):
    """Of steps of half a second, with losses 1, 2, ..., of which the sixth writes a row."""
    now, told, rows = 100.0, [], {}
    monkeypatch.setattr("diffgen.training.progress.time", SimpleNamespace(monotonic=lambda: now))
    trainer = SimpleNamespace(
        **{"global_step": 0, "max_steps": 8, "is_global_zero": True},
        loggers=[SimpleNamespace(log_metrics=lambda values, step: rows.update({step: values}))],
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])],
    )
    module = SimpleNamespace(loss_by_time=LossByTime(), batch_size=6, quality="")
    reporter = Reporter(every=6, quiet_seconds=1)
    reporter.on_train_start(trainer, module)
    if bar:
        reporter.task = 0
        reporter.bar = SimpleNamespace(
            update=lambda *_, description, **__: told.append(description)
        )
    for step in range(1, 9):
        now, trainer.global_step = now + 0.5, step
        module.loss_by_time.add(torch.tensor([0.5]), torch.tensor([float(step)]))
        reporter.on_train_batch_end(trainer, module)
    losses = {2: 1.5, 4: 2.5, 6: 3.5, 8: 7.5}
    lines = told or capsys.readouterr().out.splitlines()
    assert [line[: line.index("/s") + 2] for line in lines] == [
        f"step {step}/8  loss {loss:.4f}  12 images/s" for step, loss in losses.items()
    ]
    assert {step: (row["loss"], row["images_per_second"]) for step, row in rows.items()} == {
        6: (3.5, 12),
        8: (7.5, 12),
    }


def test_losses_by_level_are_means_of_their_tenth():
    losses = LossByTime()
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    losses.add(t[:500], t[:500].float())
    losses.add(t[500:], t[500:].float())
    read = losses.pop_means()
    tenths = {f"loss/t{k / 10:.1f}": k / 10 - 0.0495 for k in range(1, 11)}
    assert read == pytest.approx({"loss": 0.5005, **tenths}, rel=1e-5)
    assert losses.pop_means() == {}
    losses.add(torch.tensor([0.05, 1.0]), torch.tensor([2.0, 4.0]))
    assert losses.pop_means() == {"loss": 3, "loss/t0.1": 2, "loss/t1.0": 4}


def test_every_choice_of_a_model_is_known():
    hints = get_type_hints(ModelSettings)
    assert set(get_args(hints["noise_input"])) == set(NOISE_INPUTS)
    assert set(get_args(hints["range"])) == {*RANGES, "standardised"}
    assert set(classes("times")) == {
        *("uniform", "antithetic", "stratified", "log_normal", "logit_normal")
    }
    assert set(WEIGHTINGS) == {*PAPERS, "likelihood"}
    assert set(PREDICTIONS) == {"eps", "x0", "score", "raw_score", "v", "flow", "edm"}
