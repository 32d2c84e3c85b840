"""Schedules: the papers' tables, and what every schedule promises."""

import math

import pytest
import torch
from analytic import SCHEDULES, scalar

from diffgen.errors import UsageError
from diffgen.schedule.constant import Constant
from diffgen.schedule.cosine import Cosine
from diffgen.schedule.edm import EDM
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.linear import Linear
from diffgen.schedule.quadratic import Quadratic
from diffgen.schedule.sigmoid import Sigmoid
from diffgen.schedule.sigmoid_beta import SigmoidBeta
from diffgen.schedule.ve import VE
from diffgen.schedule.vp import VP

EVERY = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
PRESERVING = ("linear", "linear_zero_snr", "cosine", "sigmoid", "quadratic", "constant", "vp")


def levels(count: int) -> torch.Tensor:
    return torch.arange(1, count + 1, dtype=torch.float64) / count


def test_ddpm_table():
    """alpha-bar is the running product of 1 - beta, beta from 1e-4 to 0.02 in 1000 levels."""
    alpha, product = Linear().alpha(levels(1000)), 1.0
    for k in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * k / 999)
        assert alpha[k].item() ** 2 == pytest.approx(product, rel=1e-12)
    assert product == pytest.approx(4.036e-5, rel=1e-3)
    assert alpha[-1].item() == pytest.approx(0.00635, rel=1e-3)


@pytest.mark.parametrize("count", [21, 50, 100, 250, 4000])
def test_ends_follow_the_number_of_levels(count):
    """The image drowns about as deep as in 1000 levels."""
    assert Linear(levels=count).alpha(scalar(1)) < 0.0071
    assert Linear(levels=count).betas()[0].item() == pytest.approx(0.1 / count)


def test_cosine_table():
    """Nichol and Dhariwal's equation 17 wherever beta is not capped."""

    def signal(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 / signal_0

    signal_0 = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    alpha = Cosine().alpha(levels(1000))
    for k in range(998):
        assert alpha[k].item() ** 2 == pytest.approx(signal((k + 1) / 1000), rel=1e-10)
    assert alpha[-1].item() ** 2 == pytest.approx(alpha[-2].item() ** 2 * 0.001, rel=1e-9)


def test_sigmoid_table():
    """Jabri et al.: alpha^2 is the sigmoid, shifted and scaled to fall from 1 to 0."""
    sigmoid = [1 / (1 + math.exp(6 * k / 1000 - 3)) for k in range(1001)]
    alpha = Sigmoid().alpha(levels(1000))
    for k in range(1, 999):
        expected = (sigmoid[k] - sigmoid[1000]) / (sigmoid[0] - sigmoid[1000])
        assert alpha[k - 1].item() ** 2 == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("schedule", "first", "middle", "last"),
    [
        (Quadratic(), 1e-4, 0.005732, 0.02),  # ((0.01 + sqrt(0.02)) / 2)^2 between
        (SigmoidBeta(), 1.4919e-4, 0.01005, 0.019951),  # 1e-4 + 0.0199 / (1 + e^6) at the start
        (Constant(), 0.01, 0.01, 0.01),
    ],
    ids=["quadratic", "sigmoid_beta", "constant"],
)
def test_other_betas(schedule, first, middle, last):
    betas = schedule.betas()
    assert betas[0].item() == pytest.approx(first, rel=1e-3)
    assert betas[499:501].mean().item() == pytest.approx(middle, rel=2e-3)
    assert betas[-1].item() == pytest.approx(last, rel=1e-3)


def test_ncsn_ladder():
    """NCSN v1: ten levels from 1 to 0.01 in one ratio, 1.668; level 0 is the least noise."""
    ladder = Geometric(sigma_max=1.0)
    sigma = ladder.sigma(levels(10))
    printed = [0.01, 0.0167, 0.0278, 0.0464, 0.0774, 0.1292, 0.2154, 0.3594, 0.5995, 1.0]
    torch.testing.assert_close(sigma, torch.tensor(printed).double(), atol=5e-5, rtol=0)
    assert ladder.ratio == pytest.approx(1.668, abs=5e-4)


@pytest.mark.parametrize(
    ("sigma_max", "count", "ratio"),
    [(50, 232, 1.03756), (90, 500, 1.01841), (140, 788, 1.01220), (190, 1086, 1.00912),
     (348, 2311, 1.00454)],
)  # fmt: skip
def test_ncsnv2_ladders(sigma_max, count, ratio):
    ladder = Geometric(sigma_max=sigma_max, levels=count)
    assert ladder.ratio == pytest.approx(ratio, abs=5e-6)
    sigma = ladder.sigma(levels(count))
    torch.testing.assert_close(
        sigma[1:] / sigma[:-1], torch.full((count - 1,), ladder.ratio).double()
    )
    assert sigma[0].item() == pytest.approx(0.01, rel=1e-12)
    assert sigma[-1].item() == pytest.approx(sigma_max, rel=1e-12)


def test_continuous_vp_is_ddpm_with_endless_levels():
    t = levels(100)
    close = Linear(levels=100_000).alpha(t).log()
    torch.testing.assert_close(VP().alpha(t).log(), close, atol=2e-3, rtol=2e-3)
    expected = math.exp(-(19.9 * 0.25 / 4) - 0.05 / 2)  # equation 33 at t = 1/2
    assert VP().alpha(scalar(0.5)).item() == pytest.approx(expected, rel=1e-12)


def test_continuous_ve():
    """Equation 31: sigma_min (sigma_max / sigma_min)^t; the middle is the geometric mean."""
    assert VE().sigma(scalar(0.5)).item() == pytest.approx(math.sqrt(0.5), rel=1e-12)
    assert VE().sigma(scalar(1.0)).item() == pytest.approx(50, rel=1e-12)


def test_edm_steps():
    """Times even in t are equation 5's steps: 80, 57.6, ... 0.002 for 18 of them."""
    steps = torch.linspace(1, 1e-3, 18, dtype=torch.float64)
    i = torch.arange(18, dtype=torch.float64)
    karras = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(EDM().sigma(steps), karras)


def test_zero_terminal_snr():
    """Lin et al., algorithm 1: no signal at the last level, the first one unchanged."""
    plain, shifted = Linear().alpha(levels(1000)), Linear(zero_snr=True).alpha(levels(1000))
    assert shifted[-1] == 0
    assert shifted[0] == plain[0]
    expected = (plain[499] - plain[-1]) * plain[0] / (plain[0] - plain[-1])
    assert shifted[499].item() == pytest.approx(expected.item(), rel=1e-12)


@EVERY
def test_image_at_zero(schedule):
    assert schedule.alpha(scalar(0)) == 1
    assert schedule.sigma(scalar(0)) == 0


@EVERY
def test_signal_falls_all_the_way(schedule):
    """On levels, between them and below t_min."""
    t = torch.linspace(0, 1, 4321, dtype=torch.float64)
    assert (schedule.log_snr(t).diff() < 0).all()


@EVERY
def test_time_inverts_log_snr(schedule):
    t = torch.linspace(schedule.t_min, 0.999, 500, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", PRESERVING)
def test_variance_is_preserved(name):
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    total = SCHEDULES[name].alpha(t) ** 2 + SCHEDULES[name].sigma(t) ** 2
    torch.testing.assert_close(total, torch.ones_like(t), atol=1e-14, rtol=0)


@EVERY
def test_coefficients_take_the_batch_and_its_type(schedule):
    """Per image and for all; a float64 factor would turn training into float64."""
    like = torch.ones(2, 3, 4, 4)
    alpha, sigma = schedule.at(torch.tensor([0.3, 0.8], dtype=torch.float64), like)
    one, _ = schedule.at(scalar(0.8), like)
    assert (alpha * like).dtype == (one * like).dtype == torch.float32
    assert ((alpha * like)[1] == (one * like)[1]).all()
    assert (sigma * like)[0, 2, 3, 3].item() == pytest.approx(schedule.sigma(scalar(0.3)).item())


def test_level_is_the_papers_index():
    """DDPM counts levels from 0; truncating t * 1000 would miss some of them."""
    index = Linear().level(levels(1000))
    assert index.tolist() == list(range(1000))
    assert Linear().level(scalar(0.0155)).item() == pytest.approx(14.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Linear(levels=20), "to 1, .*: take schedule.levels=21 or more, lower schedule.b"),
        (
            lambda: Linear(levels=100, rescale=False),
            "0.60 of .*: take schedule.rescale=true, raise",
        ),
        (
            lambda: Constant(levels=50, rescale=False),
            "0.78 of .*: take schedule.rescale=true, raise",
        ),
        (
            lambda: Constant(levels=9, rescale=False),
            r"0.96 of the image's scale \(limit 0.05\): raise schedule.beta, or",
        ),
        (
            lambda: Linear(beta_max=0.01),
            r"0.08 of the image's scale \(limit 0.05\): raise schedule.b",
        ),
        (lambda: Quadratic(beta_max=2.0, rescale=False), "to 2, .*: lower schedule.beta_max, or"),
        (lambda: Constant(beta=1e-3), "0.61 of the image's .*: raise schedule.beta, or"),
        (lambda: Constant(beta=0.0), "take schedule.beta above 0"),
        (
            lambda: Constant(beta=0.5, levels=9),
            "take schedule.levels=501 or more, lower schedule.beta,",
        ),
        (
            lambda: Linear(beta_min=0.0),
            "from 0 to 0.02, .*: take schedule.beta_min and schedule.beta_m",
        ),
        (lambda: Cosine(offset=-0.5), "take schedule.offset from 0 up"),
        (lambda: Cosine(beta_max=1.0), "take schedule.beta_max below 1"),
        (lambda: Cosine(beta_max=1e-3), "0.64 of the image's .*: raise schedule.beta_max, where"),
        (lambda: Sigmoid(start=3.0), "take schedule.start and schedule.end apart"),
        (lambda: Linear(levels=1), "2 or more"),
        (lambda: VP(beta_max=5.0), "0.28 of the image's .*: raise schedule.beta_max, or"),
        (lambda: VP(t_min=0.0), "t_min"),
        (lambda: VE(sigma_max=0.001), "sigma_min"),
        (lambda: EDM(rho=0.0), "rho"),
        (lambda: Geometric(sigma_max=0.001), "sigma_min"),
        (lambda: Geometric(sigma_max=1.0, levels=1), "2 levels"),
    ],
    ids=[
        "too_few",
        "not_rescaled",
        "constant_not_rescaled",
        "past_rescaling",
        "weak_ramp",
        "strong_ramp",
        "too_weak",
        "no_beta",
        "too_strong",
        "no_noise",
        "negative_offset",
        "uncapped",
        "capped_too_low",
        "flat",
        "no_levels",
        "vp_weak",
        "vp_zero",
        "ve",
        "edm",
        "upside_down",
        "one_level",
    ],
)
def test_refusals_name_the_remedy(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_the_remedies_mend():
    Linear(levels=21)
    Linear(levels=100, rescale=True)
    Constant(levels=50, rescale=True)
    Constant(levels=501, beta=0.5)
    Cosine(offset=0.0)
    Quadratic(beta_max=0.02, rescale=False)
