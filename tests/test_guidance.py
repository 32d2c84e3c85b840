"""Guidance against exact answers: a Gaussian mixture whose classes are known."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.testing import assert_close

from diffgen.config.build import build
from diffgen.denoiser import Denoiser, Preconditioned
from diffgen.denoiser.base import NoisyClassifier
from diffgen.denoiser.noise_input import level
from diffgen.denoiser.prediction import Eps
from diffgen.errors import UsageError
from diffgen.guidance.autoguidance import Autoguidance
from diffgen.guidance.checks import (
    Facts,
    check_classifier,
    check_classifier_free,
    check_weak,
    find_labels,
)
from diffgen.guidance.classifier import ClassifierGuidance
from diffgen.guidance.classifier_free import ClassifierFree
from diffgen.guidance.none import Unguided
from diffgen.network.classifier import Classifier
from diffgen.network.unet import UNet
from diffgen.sampler.base import added_variance, posterior_variance
from diffgen.sampler.ddim import DDIM
from diffgen.sampler.ddpm import DDPM
from diffgen.schedule.cosine import Cosine
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.linear import Linear
from diffgen.schedule.spacing import linspace, log_snr

NULL = 3
LINEAR = Linear()
SCHEDULES = {"vp": LINEAR, "ve": Geometric(sigma_max=20, sigma_min=0.01, levels=100)}
GUIDANCE = Path(__file__).parents[1] / "configs" / "guidance"


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Mixture(Denoiser):
    """Exact denoiser of three classes of two planar Gaussians each; images (B, 1, 1, 2)."""

    def __init__(self, schedule, spread=1.0):
        super().__init__()
        self.schedule, self.calls = schedule, []
        self.mean = normal(1, 6, 2).double() * 1.5
        self.variance = spread * torch.tensor([0.3, 0.1, 0.2, 0.4, 0.15, 0.25]).double()
        self.weight = torch.tensor([0.1, 0.2, 0.2, 0.1, 0.3, 0.1]).double()
        self.allowed = torch.cat((torch.eye(3), torch.ones(1, 3))).repeat_interleave(2, 1)

    def joint(self, x_t, t):
        """ln p(x_t, component), (B, 6)."""
        alpha, sigma = (f(t).reshape(-1, 1) for f in (self.schedule.alpha, self.schedule.sigma))
        scale = alpha**2 * self.variance + sigma**2
        far = (x_t.reshape(-1, 1, 2) - alpha[..., None] * self.mean).square().sum(2)
        return self.weight.log() - scale.log() - far / scale / 2

    def logits(self, x_t, t):
        return self.joint(x_t, t).unflatten(1, (3, 2)).logsumexp(2)

    def forward(self, x_t, t, label=None):
        self.calls.append(label.tolist() if label is not None else len(x_t) * [None])
        label = torch.full((len(x_t),), NULL) if label is None else label
        share = (self.joint(x_t, t) + self.allowed[label].log()).softmax(1)
        alpha, sigma = (f(t).reshape(-1, 1, 1) for f in (self.schedule.alpha, self.schedule.sigma))
        pull = alpha * self.variance[:, None] / (alpha**2 * self.variance[:, None] + sigma**2)
        x0 = self.mean + pull * (x_t.reshape(-1, 1, 2) - alpha * self.mean)
        return (share[..., None] * x0).sum(1).reshape(x_t.shape)


class Oracle(nn.Module):
    """The mixture's exact classifier of noisy images."""

    def __init__(self, mixture):
        super().__init__()
        self.mixture = mixture

    def forward(self, x_t, t):
        return self.mixture.logits(x_t, t)


class Logistic(nn.Module):
    """Two Gaussian classes of equal covariance: logits linear in x_t, which ignore the noise."""

    def __init__(self, slopes=((1.0, -0.5), (-0.7, 0.2))):
        super().__init__()
        self.slopes = nn.Parameter(torch.tensor(slopes).double())

    def forward(self, x_t, t):
        return x_t.flatten(1) @ self.slopes.to(x_t).T

    def gradient(self, x_t, label):
        share = self(x_t, None).softmax(1)
        return (self.slopes[label] - share @ self.slopes).reshape(x_t.shape).detach()


def time(value) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def noisy(rows=6):
    return 2 * normal(0, rows, 1, 1, 2).double()


LABEL = torch.tensor([0, 1, 2, 0, 1, 2])
schedules = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
views = pytest.mark.parametrize("view", ["forward", "eps", "score"])


@schedules
@views
@pytest.mark.parametrize("weight", [-2.0, -1.0, 0.0, 0.5, 4.0])
def test_every_view_is_guided_by_the_formula(schedule, view, weight):
    plain = Mixture(schedule)
    guided = getattr(ClassifierFree(plain, NULL, weight), view)
    for t in (time(0.02), time(0.5), torch.linspace(0.1, 1, 6).double()):
        labelled, free = (getattr(plain, view)(noisy(), t, c) for c in (LABEL, None))
        wanted = (1 + weight) * labelled - weight * free
        assert_close(guided(noisy(), t, LABEL), wanted, rtol=1e-9, atol=1e-9)


def test_weight_moves_the_class_posterior_of_samples():
    mixture = Mixture(LINEAR)
    start = normal(3, 400, 1, 1, 2).double()
    label, times = torch.full((400,), 2), log_snr(LINEAR, 20)
    posteriors = []
    for weight in (-1, -0.5, 0, 0.5, 1, 2, 4):
        guided = ClassifierFree(mixture, NULL, weight)
        x = DDIM()(guided, start, times, label, torch.randn_like)
        posteriors.append(mixture.logits(x, time(0.0)).softmax(1)[:, 2].mean().item())
    assert all(later > earlier for earlier, later in pairwise(posteriors)), posteriors
    assert posteriors[0] == pytest.approx(0.4, abs=0.05)  # the share of class 2 in the data
    assert posteriors[-1] > 0.99


def unet():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet(channels=1, size=8, num_classes=3, width=8, multipliers=(1, 2), groups=4)
        for weight in network.parameters():
            nn.init.normal_(weight, std=0.2)
        return Preconditioned(network.eval(), LINEAR, Eps(), level), torch.randn(4, 1, 8, 8)


@torch.no_grad()
def test_one_branch_is_bit_equal_to_the_path_it_names():
    plain, x_t = unet()
    label, t, null = LABEL[:4], time(0.4), torch.full((4,), NULL)
    conditional, free = plain(x_t, t, label), plain(x_t, t)
    assert not torch.equal(conditional, free)
    assert torch.equal(ClassifierFree(plain, NULL, 0)(x_t, t, label), conditional)
    assert torch.equal(ClassifierFree(plain, NULL, -1, rescale=0.7)(x_t, t, label), free)
    assert torch.equal(ClassifierFree(plain, NULL, -1)(x_t, t, label), plain(x_t, t, null))
    assert torch.equal(ClassifierFree(plain, NULL, 3)(x_t, t), free)
    outside = ClassifierFree(plain, NULL, 3, interval=(1e3, 1e4), rescale=0.7)
    assert torch.equal(outside(x_t, t, label), conditional)
    assert torch.equal(Unguided(plain)(x_t, t, label), conditional)


@pytest.mark.parametrize(
    ("weight", "labels"),
    [(0, [2, 0]), (-1, [None, None]), (1, [2, 0, 3, 3]), (-0.5, [2, 0, 3, 3])],
)
def test_branches_share_one_batched_call(weight, labels):
    mixture = Mixture(LINEAR)
    ClassifierFree(mixture, NULL, weight)(noisy(2), time(0.5), torch.tensor([2, 0]))
    assert mixture.calls == [labels]


def test_rows_with_the_null_label_stay_unconditional():
    mixture, label = Mixture(LINEAR), torch.tensor([1, NULL, 2, NULL, 0, NULL])
    guided = ClassifierFree(mixture, NULL, 3)(noisy(), time(0.5), label)
    free, labelled = mixture(noisy(), time(0.5)), mixture(noisy(), time(0.5), label)
    wanted = torch.where((label == NULL)[:, None, None, None], free, 4 * labelled - 3 * free)
    assert_close(guided, wanted, rtol=1e-12, atol=1e-12)


def test_the_interval_is_closed_and_holds_for_each_row():
    schedule = SCHEDULES["ve"]
    levels = torch.tensor([10.0, 20, 40, 60, 61, 90]).double() / 100
    low, high = (schedule.sigma(levels[k]).item() for k in (1, 3))
    mixture = Mixture(schedule)
    guided = ClassifierFree(mixture, NULL, 2, interval=(low, high))
    for k, rows in enumerate([1, 2, 2, 2, 1, 1]):
        mixture.calls.clear()
        guided(noisy(1), levels[k], LABEL[:1])
        assert len(mixture.calls[0]) == rows
    always, never = (ClassifierFree(mixture, NULL, w)(noisy(), levels, LABEL) for w in (2, 0))
    together = guided(noisy(), levels, LABEL)
    assert_close(together[1:4], always[1:4], rtol=0, atol=0)
    assert torch.equal(together[[0, 4, 5]], never[[0, 4, 5]])


def test_the_interval_is_in_sigma_over_alpha():
    guided = ClassifierFree(Mixture(Cosine()), NULL, 1, interval=(0.9, 1.1))
    t = Cosine().time(torch.tensor([0.0]).double())  # sigma = alpha = 0.707
    assert guided.weight.at(Cosine(), t).tolist() == [1]


class Table(Denoiser):
    """Answers from a table, one image per label."""

    def __init__(self, rows):
        super().__init__()
        self.schedule, self.rows = LINEAR, torch.tensor(rows).double()[:, None, None]

    def forward(self, x_t, t, label=None):
        return self.rows[label]


def test_rescaling_restores_the_contrast_of_the_conditional_image():
    table = Table([[3, 1], [4, 4], [1, 1]])  # guided at w = 1: [5, 1] and [7, 7]; std 2 and 0
    for amount, first in [(0.0, [5, 1]), (0.7, [3.25, 0.65]), (1.0, [2.5, 0.5])]:
        guided = ClassifierFree(table, 2, 1, rescale=amount)
        x0 = guided(noisy(2), time(0.5), torch.tensor([0, 1]))
        assert_close(x0.reshape(2, 2), torch.tensor([first, [7, 7]]).double())


@schedules
@pytest.mark.parametrize("label", [None, LABEL], ids=["unlabelled", "labelled"])
def test_autoguidance_leans_away_from_the_weak_model(schedule, label):
    good, weak, t = Mixture(schedule), Mixture(schedule, spread=3), time(0.3)
    strong, poor = good(noisy(), t, label), weak(noisy(), t, label)
    for weight in (-0.5, 1.0, 2.5):
        guided = Autoguidance(good, weak, weight)(noisy(), t, label)
        assert_close(guided, (1 + weight) * strong - weight * poor)
    good.calls.clear(), weak.calls.clear()
    assert torch.equal(Autoguidance(good, weak, 0)(noisy(), t, label), strong)
    assert torch.equal(Autoguidance(good, weak, -1)(noisy(), t, label), poor)
    assert torch.equal(Autoguidance(good, weak, 1, (1e4, 1e5))(noisy(), t, label), strong)
    assert (len(good.calls), len(weak.calls)) == (2, 1)


@schedules
@views
def test_bayes_makes_the_unconditional_model_conditional(schedule, view):
    """D(x, c) = D(x) + sigma^2 / alpha grad ln p(c | x_t), at every time."""
    mixture = Mixture(schedule)
    guided = ClassifierGuidance(mixture, Oracle(mixture), null=0)
    for t in (time(0.02), time(0.5), torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9, 1.0]).double()):
        wanted = getattr(mixture, view)(noisy(), t, LABEL)
        assert_close(getattr(guided, view)(noisy(), t, LABEL), wanted, rtol=1e-7, atol=1e-9)


@schedules
def test_guidances_compose_two_levels_deep(schedule):
    mixture, t = Mixture(schedule), time(0.4)
    oracle, weak = Oracle(mixture), Mixture(schedule, spread=2)
    labelled, free = mixture(noisy(), t, LABEL), mixture(noisy(), t)
    outer = ClassifierGuidance(ClassifierFree(mixture, NULL, 1.5), oracle, NULL, 2)
    inner = ClassifierFree(ClassifierGuidance(mixture, oracle, NULL, 2), NULL, 1.5)
    auto = Autoguidance(ClassifierFree(mixture, NULL, 1.5), weak, 2)
    twice = 2.5 * labelled - 1.5 * free
    assert_close(outer(noisy(), t, LABEL), twice + 2 * (labelled - free))
    assert_close(inner(noisy(), t, LABEL), twice + 5 * (labelled - free))
    assert_close(auto(noisy(), t, LABEL), 3 * twice - 2 * weak(noisy(), t, LABEL))


def ancestral_shift(schedule, t, s, weight, label):
    """How far a linear classifier moves the mean of x_s, and grad ln p(label | x_t)."""
    plain, logistic = Mixture(schedule), Logistic()
    guided = ClassifierGuidance(plain, logistic, 0, weight)
    mean = [
        DDPM()(denoiser, noisy(), torch.stack((t, s)), c, torch.zeros_like)
        for denoiser, c in ((plain, None), (guided, label))
    ]
    return mean[1] - mean[0], logistic.gradient(noisy(), label)


@schedules
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.8), (0.5, 0.45), (0.02, 0.01), (0.01, 0.0)])
def test_a_linear_gaussian_classifier_shifts_the_ancestral_mean(schedule, t, s):
    t, s = time(t), time(s)
    shift, gradient = ancestral_shift(schedule, t, s, 1.7, LABEL % 2)
    ratio = schedule.alpha(s) / schedule.alpha(t)
    variance = schedule.sigma(t) ** 2 - schedule.sigma(s) ** 2 / ratio**2
    assert_close(shift, ratio * variance * 1.7 * gradient, rtol=1e-9, atol=1e-12)


@schedules
def test_a_classifier_lowers_eps_by_sigma_times_the_gradient(schedule):
    plain, logistic, t = Mixture(schedule), Logistic(), time(0.3)
    guided = ClassifierGuidance(plain, logistic, 0, 1.7)
    wanted = -1.7 * schedule.sigma(t) * logistic.gradient(noisy(), LABEL % 2)
    assert_close(guided.eps(noisy(), t, LABEL % 2) - plain.eps(noisy(), t), wanted)


def test_variance_times_gradient_is_the_small_step_limit():
    """ADM moves the mean by variance x gradient, as we do for fixedlarge where s is near t."""

    def error(k, step):
        t, s = time(k / 1000), time((k - step) / 1000)
        shift, gradient = ancestral_shift(LINEAR, t, s, 1.0, LABEL % 2)
        return (shift / (added_variance(LINEAR, t, s) * gradient) - 1).abs().max()

    assert error(1000, 1) < 0.0102  # beta is largest there, 0.02
    for k in (1000, 500, 2):
        assert error(k, 0.1) < 0.11 * error(k, 1)
    ends = time([0.002, 0.001])
    assert posterior_variance(LINEAR, *ends) < 0.5 * added_variance(LINEAR, *ends)


def test_the_classifier_says_nothing_of_rows_without_a_label():
    mixture = Mixture(LINEAR)
    guided = ClassifierGuidance(mixture, Oracle(mixture), NULL, 2)
    label, t = torch.tensor([1, NULL, 2, NULL, 0, NULL]), time(0.5)
    plain, x0 = mixture(noisy(), t, label), guided(noisy(), t, label)
    assert torch.equal(x0[1::2], plain[1::2])
    assert (x0[::2] - plain[::2]).abs().amin(3).min() > 1e-3
    assert torch.equal(guided(noisy(), t), mixture(noisy(), t))
    unasked = ClassifierGuidance(mixture, nn.Identity(), NULL, 0)
    assert torch.equal(unasked(noisy(), t, label), plain)


def test_an_unconditional_network_is_never_given_the_label():
    mixture = Mixture(LINEAR)
    ClassifierGuidance(mixture, Oracle(mixture), 0)(noisy(2), time(0.5), LABEL[:2])
    ClassifierGuidance(mixture, Oracle(mixture), NULL)(noisy(2), time(0.5), LABEL[:2])
    assert mixture.calls == [[None, None], [0, 1]]


def test_a_row_is_guided_alike_in_any_batch_without_grad_and_under_autocast():
    mixture = Mixture(LINEAR)
    guided = ClassifierGuidance(mixture, Oracle(mixture), NULL, 2)
    t = torch.linspace(0.1, 1, 6).double()
    with torch.no_grad():
        together = guided(noisy(), t, LABEL)
        alone = [guided(noisy()[k, None], t[k], LABEL[k, None]) for k in range(6)]
    assert not together.requires_grad
    assert_close(torch.cat(alone), together, rtol=1e-12, atol=1e-12)
    logistic = ClassifierGuidance(mixture, Logistic(), NULL)
    x_t = noisy().float()
    wanted = logistic.gradient(x_t, t, LABEL % 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(logistic.gradient(x_t, t, LABEL % 2), wanted)


def test_the_gradient_of_a_network_is_the_slope_of_its_log_probability():
    x_t, t, label = normal(4, 4, 1, 8, 8), time(0.25), LABEL[:4]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Classifier(channels=1, size=8, num_classes=3, noise_conditional=True).eval()
    classifier = NoisyClassifier(network, LINEAR, level)
    gradient = ClassifierGuidance(Mixture(LINEAR), classifier, 0).gradient(x_t, t, label)
    step = 0.01 * gradient / gradient.norm()

    def log_probability(x):
        return -nn.functional.cross_entropy(network(x, torch.full((4,), 249.0)), label) * 4

    with torch.no_grad():
        slope = log_probability(x_t + step) - log_probability(x_t - step)
    assert_close(slope / 0.02, gradient.norm(), rtol=0.01, atol=0)
    assert gradient.norm() > 0.01


def test_pure_noise_is_not_guided_by_a_classifier():
    terminal = Linear(zero_snr=True)
    mixture = Mixture(terminal)
    guided = ClassifierGuidance(mixture, Logistic(), NULL)
    assert torch.equal(
        guided(noisy(), time(1.0), LABEL % 2), mixture(noisy(), time(1.0), LABEL % 2)
    )
    x = DDIM()(guided, noisy(), linspace(terminal, 10), LABEL % 2, torch.randn_like)
    assert x.isfinite().all()


def test_every_config_builds_its_guidance():
    context = {"denoiser": Mixture(LINEAR), "weak": Mixture(LINEAR), "classifier": Logistic()}
    built = {}
    for path in GUIDANCE.glob("*.yaml"):
        settings = yaml.safe_load(path.read_text())
        for key in ("checkpoint", "classifier_free"):  # the command's, as it makes the context
            settings.pop(key, None)
        built[path.stem] = type(build("guidance", settings, null=NULL, **context))
    assert built == {
        "autoguidance": Autoguidance,
        "classifier": ClassifierGuidance,
        "classifier_free": ClassifierFree,
        "none": Unguided,
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weight": "abc"}, "guidance.weight=abc"),
        ({"weight": float("nan")}, "must be a number from -1e"),
        ({"wieght": 1}, "did you mean weight"),
        ({"interval": [2, 1]}, r"interval=\[2,1\] must be"),
        ({"interval": [-1, 1]}, "0 <= low < high"),
        ({"interval": [1]}, "guidance.interval"),
        ({"rescale": 1.5}, "must be a share from 0 to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(UsageError, match=words) as error:
        build(
            "guidance",
            {"name": "classifier_free", **settings},
            denoiser=Mixture(LINEAR),
            null=NULL,
        )
    assert "\n" not in str(error.value)


def facts(**changes):
    own = {"schedule": LINEAR, "data_range": (-1, 1), "shape": (1, 8, 8), "classes": ("a", "b")}
    return Facts(**{**own, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": Cosine()}, r"schedule Cosine\(.*this model Linear\("),
        ({"schedule": Linear(levels=500)}, "levels=500"),
        ({"data_range": (0, 1)}, r"data range \(0, 1\), this model \(-1, 1\)"),
        ({"shape": (3, 8, 8)}, "shape"),
        ({"classes": ("a", "c")}, r"classes \(a, c\), this model \(a, b\)"),
        ({"classes": tuple(map(str, range(1000)))}, r"18, 19, \.\.\. \(1000\)"),
    ],
)
@pytest.mark.parametrize("check", [check_weak, check_classifier])
def test_a_guide_of_another_kind_is_refused(check, changes, words):
    check(facts(), facts())
    with pytest.raises(UsageError, match=words) as error:
        check(facts(), facts(**changes))
    assert "\n" not in str(error.value)


def test_a_classifier_of_clean_images_is_refused_and_one_fits_any_unlabelled_model():
    check_classifier(facts(classes=()), facts())
    with pytest.raises(UsageError, match=r"model\.noise_conditional=true"):
        check_classifier(facts(), facts(schedule=None))
    with pytest.raises(UsageError, match="classes"):
        check_weak(facts(classes=()), facts())


def test_weights_that_a_checkpoint_cannot_serve_are_refused():
    for weight, classes, dropout in [(0, 0, 0.1), (-1, 0, 0.1), (0, 10, 0), (3, 10, 0.1)]:
        check_classifier_free(weight, classes, dropout)
    with pytest.raises(UsageError, match=r"guidance\.weight=0\.5 needs labels"):
        check_classifier_free(0.5, 0, 0.1)
    for weight in (-1, 2):
        with pytest.raises(UsageError, match=r"model\.label_dropout"):
            check_classifier_free(weight, 10, 0)


def test_labels_are_found_by_name_or_index():
    assert find_labels(["dog", 0, "1"], ("cat", "dog")) == [1, 0, 1]
    assert find_labels([3, "0"], tuple("0123456789")) == [3, 0]
    assert find_labels([1, "3"], ("1", "3", "5")) == [0, 1]
    for wanted, classes, words in [
        (["dgo"], ("cat", "dog"), "no class dgo: there is cat, dog, or 0 to 1"),
        ([2], ("cat", "dog"), "no class 2"),
        ([-1], ("cat", "dog"), "no class -1"),
        ([2], ("1", "3", "5"), "no class 2: there is 1, 3, 5$"),
        ([0], (), "without labels"),
    ]:
        with pytest.raises(UsageError, match=words):
            find_labels(wanted, classes)
