"""Classifiers of noisy images: their loss, their training by the command, and whom they guide."""

import csv
import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import assert_same, contents, here, tree, worked
from torch import Tensor, nn
from torch.testing import assert_close

from diffgen.commands.data_dependent import followed
from diffgen.dataset.digits import Digits
from diffgen.dataset.pixels import RANGES
from diffgen.denoiser.base import NoisyClassifier
from diffgen.denoiser.noise_input import level, nothing
from diffgen.runs import checkpoint
from diffgen.sampler import SeededNoise
from diffgen.sampling.request import request_of
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.linear import Linear
from diffgen.training.loss import ClassifierLoss
from diffgen.training.random_numbers import RandomNumbers
from diffgen.training.times import Uniform, clean

CPU = torch.device("cpu")
FEATURES = (
    *("features=classifier", "features.steps=30", "features.width=8", "features.dim=8"),
    "features.batch_size=64",
)

pytestmark = pytest.mark.usefixtures("cache")

SMALL = ("model=classifier", "network.width=8", "network.dim=16", "trainer.accelerator=cpu")
SHORT = (*SMALL, "trainer.batch_size=64", "optimizer.warmup=5", "optimizer.lr=1e-2")
SCHEDULES = {"vp": Linear(), "ve": Geometric(sigma_max=20, sigma_min=0.01, levels=100)}


class Linears(nn.Module):
    """Logits linear in the image and in what it is told; it keeps what that was."""

    def __init__(self, classes=3, pixels=4):
        super().__init__()
        slopes = torch.randn(classes, pixels, generator=torch.Generator().manual_seed(3))
        self.slopes = nn.Parameter(slopes.double())

    def forward(self, x, told):
        self.x, self.told = x, told
        return x.flatten(1) @ self.slopes.T + (0 if told is None else told[:, None] / 1000)


def images(rows=32):
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randn(rows, 1, 2, 2, generator=generator, dtype=torch.float64)
    return x0, torch.arange(rows) % 3, RandomNumbers(0, 5, rows, torch.arange(rows))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_loss_is_the_cross_entropy_of_noised_images(schedule):
    x0, label, draws = images()
    network = Linears()
    errors, t, right = ClassifierLoss(NoisyClassifier(network, schedule, level), Uniform())(
        x0, label, draws
    )
    assert torch.equal(t, Uniform()(draws.uniform("time"), schedule))
    assert len(t.unique()) > 10
    alpha, sigma = (f(t).reshape(-1, 1, 1, 1) for f in (schedule.alpha, schedule.sigma))
    x_t = alpha * x0 + sigma * draws.normal(x0)
    seen = x_t / (alpha**2 + sigma**2).sqrt()
    logits = seen.flatten(1) @ network.slopes.T
    wanted = logits.logsumexp(1) - logits[torch.arange(len(x0)), label]
    assert_close(errors, wanted, rtol=1e-9, atol=1e-9)
    assert_close(network.told, t * schedule.levels - 1)
    assert torch.equal(right, (logits.argmax(1) == label).float())


def test_a_classifier_of_clean_images_sees_them_as_they_are():
    x0, label, draws = images()
    network = Linears()
    _, t, _ = ClassifierLoss(NoisyClassifier(network, Linear(), nothing), clean)(x0, label, draws)
    assert torch.equal(network.x, x0)
    assert network.told is None
    assert not t.any()


def trained(folder: Path, *words: str) -> Path:
    return folder / worked(here(folder, "train", *SHORT, *words)).folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, cache):
    """The folder of a run that told noisy digits apart for 240 steps and kept its 120th."""
    folder = tmp_path_factory.mktemp("classifier")
    return trained(folder, "trainer.max_steps=240", "trainer.snapshot_every=120")


def log_of(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


def test_it_learns_what_the_noise_leaves_to_learn(classifier):
    last = log_of(classifier)[-1]
    assert float(last["accuracy/t0.1"]) > 0.75
    assert float(last["accuracy/t1.0"]) < 0.3
    found = checkpoint.load(classifier / "checkpoints" / "last.ckpt")
    images = Digits().split("test")
    pixels = images.at(torch.arange(len(images)))
    x0, model = found.range.to_model(pixels), found.classifier()
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    right = []
    for t in torch.tensor([0.05, 0.5], dtype=torch.float64):
        alpha, sigma = model.schedule.at(t, x0)
        guess = model(alpha * x0 + sigma * noise, t).argmax(1)
        right.append(float((guess == images.labels).float().mean()))
    assert right[0] > 0.75
    assert 0.1 < right[1] < right[0]
    assert not (classifier / "previews").exists()


def test_it_goes_on_bit_for_bit(classifier, tmp_path):
    half = classifier / "checkpoints" / "step_0000120.ckpt"
    other = tmp_path / "runs" / "digits_classifier" / "again"
    (other / "checkpoints").mkdir(parents=True)
    (other / "checkpoints" / "last.ckpt").write_bytes(half.read_bytes())
    worked(here(tmp_path, "train", "resume=runs/digits_classifier/again", *SMALL))
    ends = [contents(run / "checkpoints" / "last.ckpt") for run in (classifier, other)]
    for key in ("state_dict", "ema", "optimizer_states", "global_step"):
        assert_same(ends[0][key], ends[1][key], key)


@pytest.mark.parametrize("pool", ["attention", "average"])
def test_the_way_down_of_a_unet_is_trained(pool, tmp_path):
    """ADM's classifier, narrow: each of its weights moves."""
    words = ("network=classifier_unet", "network.multipliers=[1,2]", "network.blocks=1")
    words += ("network.attention=[4]", f"network.pool={pool}", "trainer.snapshot_every=1")
    narrow = [word for word in SHORT if not word.startswith("network.")]
    small = ("network.width=8", "network.groups=4", "network.head_width=8")
    ran = here(tmp_path, "train", *narrow, *words, *small, "trainer.max_steps=3")
    run = tmp_path / worked(ran).folder / "checkpoints"
    first, last = (
        contents(run / name)["state_dict"] for name in ("step_0000001.ckpt", "last.ckpt")
    )
    assert first.keys() == last.keys()
    assert not any(torch.equal(first[key], last[key]) for key in first)


def test_one_of_clean_images_is_told_nothing(tmp_path):
    run = trained(tmp_path, "model.noise_conditional=false", "trainer.max_steps=60")
    last = log_of(run)[-1]
    assert float(last["accuracy"]) > 0.8
    assert set(last) >= {"accuracy", "loss/t0.1"}
    assert "loss/t0.5" not in last


def test_explain_tells_of_no_sampling(tmp_path):
    done = worked(here(tmp_path, "explain", "model=classifier", "cost=true"))
    told = json.loads((tmp_path / done.folder / "explain.json").read_text())
    assert told["sampler"] is None
    assert told["parameters"] > 10_000
    assert told["cost"]["step"] > 0
    assert "\nsampling" not in done.out
    assert "\ncost" in done.out


def unlabelled_folder(folder: Path) -> str:
    for k in range(4):
        Image.fromarray(np.full((8, 8), 40 * k, np.uint8)).save(folder / f"{k}.png")
    return f"dataset.root={folder}"


def test_images_without_labels_are_refused(tmp_path):
    words = ("dataset=folder", unlabelled_folder(tmp_path), "dataset.size=8")
    for command in ("train", "explain"):
        done = here(tmp_path, command, *SMALL, *words)
        assert done.status == 2
        assert done.line().startswith("model=classifier needs a data set with labels")


REFUSED = {
    ("model=classifier", "network=unet"): "network=unet names no classes",
    ("network=classifier",): "network=classifier makes no images",
    ("model=classifier", "model.range=foo"): "model.range=foo",
    ("model=classifier", "model.guides=/nowhere"): "no checkpoint at /nowhere",
    ("model=classifier", "model.labels=false"): "no key 'model.labels'",
}


@pytest.mark.parametrize(("words", "answer"), REFUSED.items(), ids=lambda v: str(v))
def test_a_wrong_setting_gets_one_line(words, answer, tmp_path):
    done = here(tmp_path, "train", *words)
    assert done.status == 2
    assert done.line().startswith(answer)


def test_it_takes_the_schedule_of_the_model_that_it_guides(ncsnv2, tmp_path):
    config = followed(tree("train", "model=classifier", f"model.guides={ncsnv2}")).plain
    recipe = checkpoint.load(ncsnv2 / "checkpoints" / "last.ckpt").recipe
    assert config["schedule"] == recipe["schedule"]
    assert config["model"]["range"] == "unit"
    assert config["model"]["guides"] is None
    alike = tree("train", "model=classifier")
    assert followed(alike) is alike


def test_it_makes_no_images(classifier, tmp_path):
    done = here(tmp_path, "sample", f"checkpoint={classifier}")
    assert done.status == 2
    assert "is a classifier and makes no images" in done.line()


# What it does to samples, through `diffgen sample`.


def drawn(run: Path, *words: str, count: int = 20, batch: int = 20) -> tuple[Tensor, list[int]]:
    """Images of 3 steps, and the rows that each network evaluated."""
    told = (f"checkpoint={run}", "steps=3", f"num_samples={count}", *words)
    task, counters = request_of(tree("sample", *told)).task(CPU)
    images = torch.cat([task(part.tolist(), CPU) for part in torch.arange(count).split(batch)])
    return images, [counter.rows for counter in counters]


def by(classifier: Path, weight: float, *words: str) -> tuple[str, ...]:
    guide = f"guidance.checkpoint={classifier}"
    return ("guidance=classifier", guide, f"guidance.weight={weight}", *words)


def test_without_weight_it_is_not_asked(ddpm, classifier):
    plain, alone = drawn(ddpm, "guidance=none")
    images, rows = drawn(ddpm, *by(classifier, 0))
    assert torch.equal(images, plain)
    assert (alone, rows) == ([60], [60, 0])
    guided, rows = drawn(ddpm, *by(classifier, 1))
    assert not torch.equal(guided, plain)
    assert rows == [60, 60]


def test_it_is_asked_inside_the_interval_only(ddpm, classifier):
    spared, rows = drawn(ddpm, *by(classifier, 1), "guidance.interval=[1e5,1e6]")
    assert torch.equal(spared, drawn(ddpm, "guidance=none")[0])
    assert rows == [60, 0]


@pytest.mark.parametrize("labels", ["balanced", "[7,2]"])
def test_the_command_guides_by_the_formula(unlabelled, classifier, labels):
    """DDIM of x0 + w sigma^2 / alpha grad ln p(y | x_t), clipped, written out by hand."""
    images, rows = drawn(unlabelled, *by(classifier, 3), f"labels={labels}", count=10)
    assert rows == [30, 30]
    model = checkpoint.load(unlabelled / "checkpoints" / "last.ckpt").denoiser()
    guide = checkpoint.load(classifier / "checkpoints" / "last.ckpt").classifier()
    label = torch.arange(10) if labels == "balanced" else torch.tensor([7, 2] * 5)
    x, schedule = SeededNoise(0, range(10))(torch.empty(10, 1, 8, 8)), model.schedule
    for t, s in ((1.0, 2 / 3), (2 / 3, 1 / 3), (1 / 3, 0.0)):
        t, s = torch.tensor(t, dtype=torch.float64), torch.tensor(s, dtype=torch.float64)
        x = (x * schedule.at(t, x)[1] if t == 1 else x).detach().requires_grad_()
        chosen = guide(x, t).log_softmax(1)[torch.arange(10), label].sum()
        slope = torch.autograd.grad(chosen, x)[0]
        (alpha, sigma), (alpha_s, sigma_s) = schedule.at(t, x), schedule.at(s, x)
        x0 = (model(x, t) + 3 * sigma**2 / alpha * slope).clamp(-1, 1)
        x = alpha_s * x0 + sigma_s * (x - alpha * x0) / sigma
    wanted = RANGES["symmetric"].to_uint8(x)
    assert (images.int() - wanted.int()).abs().max() <= 1  # rounding, at most
    assert (images == wanted).float().mean() > 0.99


def test_the_heavier_the_surer(ddpm, classifier):
    guide = checkpoint.load(classifier / "checkpoints" / "last.ckpt").classifier()
    sure = []
    for weight in (0, 2, 8):
        images, _ = drawn(ddpm, *by(classifier, weight), "steps=20")
        logits = guide(RANGES["symmetric"].to_model(images), torch.tensor(0.02).double())
        sure.append(float(nn.functional.cross_entropy(logits, torch.arange(20) % 10)))
    assert sure[0] > sure[1] > sure[2]


def test_it_composes_with_classifier_free_guidance(ddpm, unlabelled, classifier):
    beneath = "guidance.classifier_free="
    plain, _ = drawn(ddpm, "guidance=none")
    over, rows = drawn(ddpm, *by(classifier, 0), f"{beneath}2")
    assert torch.equal(over, drawn(ddpm, "guidance.weight=2")[0])
    assert rows == [120, 0]
    without, rows = drawn(ddpm, *by(classifier, 2), f"{beneath}-1")
    assert rows == [60, 60]
    assert not torch.equal(without, drawn(ddpm, *by(classifier, 2))[0])
    assert not torch.equal(without, plain)
    guides = request_of(
        tree("sample", f"checkpoint={ddpm}", *by(classifier, 2), f"{beneath}-1")
    ).guides
    told = rf"classifier by {classifier.name} at 240 \[[0-9a-f]{{8}}\]"
    assert re.fullmatch(f"{told}, classifier_free -1", guides.name)
    done = here(ddpm, "sample", f"checkpoint={unlabelled}", *by(classifier, 2), f"{beneath}1")
    assert done.line().startswith("guidance.classifier_free=1 needs labels")


def test_deterministic_images_have_the_same_bytes_in_any_batch(ddpm, classifier):
    words = (*by(classifier, 2), "deterministic=true")
    together, _ = drawn(ddpm, *words, count=20)
    assert torch.equal(drawn(ddpm, *words, count=20, batch=7)[0], together)


def test_rows_and_labels_of_a_model_without_classes(unlabelled, classifier, tmp_path):
    words = ("metrics=[accuracy]", *FEATURES, "num_samples=20", "steps=2")
    sweep = ("guidance=classifier", f"guidance.checkpoint={classifier}", "guidance.weight=0,4")
    told = (f"checkpoint={unlabelled}", "accelerator=cpu", *words)
    done = worked(here(tmp_path, "sample", "-m", *told, *sweep))
    folder = tmp_path / done.folder
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))[1:]
    assert [(float(row["weight"]), float(row["nfe"])) for row in rows] == [(0, 2), (4, 4)]
    told = f"classifier by {classifier.name} at 240 ["
    assert all(row["guidance"].startswith(told) for row in rows)
    assert (folder / "guidance.png").is_file()
    with np.load(folder / "0" / "samples.npz") as found:
        assert found["arr_1"].tolist() == [k % 10 for k in range(20)]


@pytest.fixture(scope="module")
def misfits(tmp_path_factory, cache, ddpm) -> dict[str, Path]:
    """Classifiers of one step that do not fit the model, each for a reason of its own."""
    folder, one = tmp_path_factory.mktemp("misfits"), "trainer.max_steps=1"
    letters = folder / "letters"
    for name, k in product("ab", range(4)):
        (letters / name).mkdir(parents=True, exist_ok=True)
        picture = np.full((8, 8), 40 * k, np.uint8)
        Image.fromarray(picture).save(letters / name / f"{k}.png")
    kinds = {
        "cosine": ("schedule=cosine",),
        "unit": ("model.range=unit",),
        "clean": ("model.noise_conditional=false",),
        "letters": ("dataset=folder", f"dataset.root={letters}", "trainer.batch_size=4"),
    }
    return {name: trained(folder, *words, one) for name, words in kinds.items()} | {"model": ddpm}


MISFITS = {
    "cosine": "guidance.checkpoint: the classifier has schedule Cosine(",
    "unit": "guidance.checkpoint: the classifier has data range (0.0, 1.0)",
    "clean": "guidance.checkpoint is a classifier of clean images",
    "letters": "guidance.checkpoint: the classifier has classes (a, b), this model (0, 1,",
}


@pytest.mark.parametrize(("kind", "answer"), MISFITS.items(), ids=MISFITS)
def test_a_classifier_that_does_not_fit_gets_one_line(kind, answer, misfits, ddpm, tmp_path):
    done = here(tmp_path, "sample", f"checkpoint={ddpm}", *by(misfits[kind], 1))
    assert done.status == 2
    assert done.line().startswith(answer)


def test_a_guide_of_the_wrong_role_gets_one_line(ddpm, classifier, tmp_path):
    weak = ("guidance=autoguidance", f"guidance.checkpoint={classifier}")
    for words, answer in (
        (by(ddpm, 1), "is no classifier: train one"),
        (weak, "is a classifier and makes no images"),
        (("guidance=classifier",), "guidance=classifier needs guidance.checkpoint=PATH"),
        ((*by(classifier, 1), "labels=cat"), "no class cat: there is 0, 1"),
        ((*by(classifier, 1), "guidance.rescale=1"), "no key 'guidance.rescale'"),
    ):
        done = here(tmp_path, "sample", f"checkpoint={ddpm}", *words)
        assert done.status == 2
        assert answer in done.line()
