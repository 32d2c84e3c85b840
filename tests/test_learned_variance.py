"""A learned variance against closed forms, through wrappers, and from training to images."""

import math
from pathlib import Path

import pytest
import torch
from analytic import scalar
from running import TINY, classes, contents, here, worked
from test_training import draws, images
from torch import nn
from torch.distributions import Normal, kl_divergence

from diffgen.denoiser.base import Clipped, Preconditioned
from diffgen.denoiser.evaluations import FixedShape, RowCount
from diffgen.denoiser.learned_variance import between, estimate
from diffgen.denoiser.noise_input import NOISE_INPUTS
from diffgen.errors import UsageError
from diffgen.guidance.autoguidance import Autoguidance
from diffgen.guidance.classifier_free import ClassifierFree
from diffgen.sampler.base import VARIANCES, posterior_mean, posterior_variance
from diffgen.sampler.ddpm import DDPM
from diffgen.sampler.dpmpp_2m import DPMpp2M
from diffgen.sampler.noise import SeededNoise
from diffgen.schedule.base import match
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.linear import Linear
from diffgen.training.loss import Loss, VariationalBound
from diffgen.training.times import Uniform
from diffgen.training.weighting import Simple

LEVELS = (Linear(), Geometric(sigma_max=5.0, sigma_min=0.01, levels=10))
BOTH = pytest.mark.parametrize("schedule", LEVELS, ids=lambda s: type(s).__name__)


class Telling(nn.Module):
    """A wave for F, moved by the label, and `said` for the variance."""

    def __init__(self, said):
        super().__init__()
        self.said, self.free = said, nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x, c_noise, label):
        moved = 0 if label is None else label.to(x).reshape(-1, 1, 1, 1)
        found = torch.sin(3 * x) + moved + self.free[0].to(x)
        said = torch.full_like(x, self.said) + 0.1 * moved
        return torch.cat([found, said + self.free[1].to(x)], 1)


class Silent(Telling):
    def forward(self, x, c_noise, label):
        return super().forward(x, c_noise, label)[:, : x.shape[1]]


def denoiser_of(schedule, said=0.3, kind=Telling, prediction="eps"):
    scaling = classes("prediction")[prediction]()
    return Preconditioned(kind(said), schedule, scaling, NOISE_INPUTS["nothing"], kind is Telling)


def drawn(sampler, denoiser, label=None):
    noise = SeededNoise(0, range(3))
    x = denoiser.schedule.sigma(scalar(1)) * noise(torch.empty(3, 1, 4, 4, dtype=torch.float64))
    times = torch.linspace(1, 0, 6, dtype=torch.float64)
    return sampler(denoiser, x, times, label, noise)


@BOTH
@pytest.mark.parametrize(("said", "name"), [(-1.0, "fixedsmall"), (1.0, "fixedlarge")])
def test_its_ends_are_the_two_fixed_variances(said, name, schedule):
    learned = drawn(DDPM("learned"), denoiser_of(schedule, said))
    torch.testing.assert_close(learned, drawn(DDPM(name), denoiser_of(schedule, said)))
    middle = drawn(DDPM("learned"), denoiser_of(schedule, 0.0))
    assert not torch.allclose(middle, learned)


def test_halfway_it_is_the_geometric_mean():
    small, large = torch.tensor(0.01).log(), torch.tensor(0.04).log()
    outputs = torch.zeros(2, 6, 4, 4)
    found = between(outputs, small, large).exp()
    torch.testing.assert_close(found, torch.full((2, 3, 4, 4), 0.02))


@BOTH
def test_other_samplers_ignore_it(schedule):
    for sampler in (DPMpp2M(), DDPM("fixedsmall")):
        telling, silent = (
            drawn(sampler, denoiser_of(schedule, kind=kind)) for kind in (Telling, Silent)
        )
        assert torch.equal(telling, silent)


def test_guidance_and_clipping_edit_the_image_and_leave_the_variance():
    """That of the labelled branch, in one evaluation of the network, padded or not."""
    denoiser, label = denoiser_of(Linear()), torch.tensor([1, 2, 0])
    denoiser.network = counter = RowCount(FixedShape(denoiser.network, 4))
    wrapped = Clipped(ClassifierFree(denoiser, null=5, weight=1.0), -1, 1)
    x, t = images()[:3], scalar(0.5)
    x0, outputs = estimate(wrapped, x, t, label)
    assert counter.rows == 6
    assert torch.equal(x0, wrapped(x, t, label))
    assert torch.equal(outputs, denoiser.outputs(x, t, label))
    assert torch.equal(denoiser.raw(x, t, label), outputs[:, :2])
    assert not denoiser.network._forward_hooks


def test_a_weak_model_alone_has_no_variance_to_say():
    model, weak = denoiser_of(Linear()), denoiser_of(Linear())
    with pytest.raises(UsageError, match=r"sampler\.variance=fixedsmall"):
        estimate(Autoguidance(model, weak, weight=-1.0), images(), scalar(0.5), None)


@BOTH
def test_the_bound_is_the_divergence_of_the_two_posteriors(schedule):
    """Against torch's, with means and variances of the steps themselves."""
    bound, denoiser = VariationalBound(schedule, -1.0, 1.0), denoiser_of(schedule)
    x0, levels = images().clamp(-1, 1), schedule.levels
    t = torch.tensor([2, 3, 5, 7, 9, levels], dtype=torch.float64) / levels
    s = t - 1 / levels
    alpha, sigma = (match(f(t), x0) for f in (schedule.alpha, schedule.sigma))
    x_t = alpha * x0 + sigma * draws().normal(x0)
    taken, outputs = denoiser(x_t, t), denoiser.outputs(x_t, t)
    column = [v.reshape(-1, 1, 1, 1) for v in (t, s)]
    small, large = (VARIANCES[name](schedule, *column) for name in ("fixedsmall", "fixedlarge"))
    true = Normal(posterior_mean(schedule, x_t, x0, *column), small.sqrt().expand_as(x0))
    learned = (large.log() * 0.65 + small.log() * 0.35).exp().sqrt().expand_as(x0)
    model = Normal(posterior_mean(schedule, x_t, taken, *column), learned)
    expected = 1e-3 * levels * kl_divergence(true, model) / math.log(2)
    torch.testing.assert_close(bound(x0, taken, outputs, t), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("mean", [-1.1, -0.2, 0.9999])
def test_the_last_term_is_a_law_over_bytes(mean):
    """Its probabilities sum to 1, and each is the normal law's share of its bin."""
    bound = VariationalBound(Linear(), -1.0, 1.0)
    x0 = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).reshape(1, 1, 16, 16)
    deviation = 0.02
    log_variance = torch.tensor(deviation).log() * 2
    nll = bound.negative_log_likelihood(x0, torch.full_like(x0, mean), log_variance)
    chances = (-nll).exp().flatten()
    assert chances[chances > 1e-11].sum().item() == pytest.approx(1, abs=1e-6)
    law, k = Normal(mean, deviation), 100
    share = law.cdf(x0.flatten()[k] + 1 / 255) - law.cdf(x0.flatten()[k] - 1 / 255)
    assert chances[k].item() == pytest.approx(max(share.item(), 1e-12), rel=1e-5)


def test_the_first_level_takes_the_variance_of_the_second():
    """As the posterior's is 0 there; and its term is the bytes' log-likelihood."""
    schedule = Linear()
    bound = VariationalBound(schedule, -1.0, 1.0)
    t = torch.tensor([1 / 1000], dtype=torch.float64)
    small, large, c_x0 = bound.coefficients(t)
    second = posterior_variance(schedule, scalar(2 / 1000), scalar(1 / 1000))
    assert small.exp().item() == pytest.approx(second.item())
    assert large.exp().item() == pytest.approx(1e-4)
    assert c_x0.item() == 1
    x0 = images()[:1].clamp(-1, 1)
    outputs = torch.cat([x0, torch.zeros_like(x0)], 1)
    expected = bound.negative_log_likelihood(x0, x0 + 0.01, (small + large) / 2) / math.log(2)
    torch.testing.assert_close(bound(x0, x0 + 0.01, outputs, t), expected)


def gradients(bound):
    denoiser = denoiser_of(Linear())
    loss = Loss(denoiser, Uniform(), Simple(), bound=bound)
    errors, _ = loss(images().clamp(-1, 1), None, draws())
    errors.mean().backward()
    return errors.detach(), denoiser.network.free.grad


def test_the_bound_teaches_the_variance_and_not_the_mean():
    plain, of_plain = gradients(None)
    hybrid, of_hybrid = gradients(VariationalBound(Linear(), -1.0, 1.0))
    assert of_plain[1] == 0
    assert of_hybrid[1] != 0
    assert of_hybrid[0] == of_plain[0]
    assert (hybrid > plain).all()


def test_its_gradient_is_finite_at_black_and_white():
    x0 = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1)
    outputs = torch.zeros(2, 2, 1, 1, requires_grad=True)
    for mean in (-3.0, 0.0, 3.0):
        t = torch.full((2,), 1e-3, dtype=torch.float64)
        VariationalBound(Linear(), -1.0, 1.0)(
            x0, torch.full_like(x0, mean), outputs, t
        ).sum().backward()
    assert outputs.grad.isfinite().all()


TRAINED = ("trainer.max_steps=6", "trainer.log_every=2", "optimizer.warmup=2")
ONLY = ("metrics=[]", "num_samples=3", "steps=4")
LEARNED = ("sampler=ddpm", "sampler.variance=learned")


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("learned")
    words = ("model.variance=learned", "preview.every=6", "preview.sampler.steps=2")
    return folder / worked(here(folder, "train", *TINY, *TRAINED, *words)).folder


def test_a_run_keeps_it_in_its_checkpoint(run):
    held = contents(run / "checkpoints" / "last.ckpt")
    assert held["diffgen"]["recipe"]["model"]["variance"] == "learned"
    heads = [v for k, v in held["state_dict"].items() if v.shape[:1] == (2,) and v.ndim == 4]
    assert len(heads) == 1  # two channels for images of one


@pytest.mark.parametrize(
    "words", [LEARNED, (*LEARNED, "guidance.weight=1"), ("sampler=ddim",)], ids=str
)
def test_a_checkpoint_that_learned_it_samples_with_any_sampler(words, run, tmp_path):
    worked(here(tmp_path, "sample", f"checkpoint={run}", *ONLY, *words))


def test_one_that_did_not_is_refused(ddpm, tmp_path):
    done = here(tmp_path, "sample", f"checkpoint={ddpm}", *ONLY, *LEARNED)
    assert done.status == 2
    assert done.line().startswith("sampler.variance=learned: this checkpoint learned no variance")


REFUSALS = {
    "schedule=vp": "model.variance=learned needs a schedule of levels",
    "model.range=standardised": "model.variance=learned needs bytes evenly on a known range",
}


@pytest.mark.parametrize(("word", "answer"), REFUSALS.items(), ids=REFUSALS)
def test_what_cannot_learn_it_is_refused(word, answer, tmp_path: Path):
    done = here(tmp_path, "train", *TINY, *TRAINED, "model.variance=learned", word)
    assert done.status == 2
    assert done.line().startswith(answer)
