"""Classifiers of noisy images: their loss, their training by the command, and whom they guide."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import assert_same, contents, here, settings, worked
from torch import nn
from torch.testing import assert_close

from diffgen import checkpoint
from diffgen.dataset.digits import Digits
from diffgen.model.noisy_classifier import NoisyClassifier
from diffgen.model.told import level, nothing
from diffgen.resolve import followed
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.linear import Linear
from diffgen.training.classifier_loss import ClassifierLoss
from diffgen.training.draws import Draws
from diffgen.training.times import clean, uniform

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
    return x0, torch.arange(rows) % 3, Draws(0, 5, rows, torch.arange(rows))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_loss_is_the_cross_entropy_of_noised_images(schedule):
    x0, label, draws = images()
    network = Linears()
    errors, t, right = ClassifierLoss(NoisyClassifier(network, schedule, level), uniform)(
        x0, label, draws
    )
    assert torch.equal(t, uniform(draws.uniform("time"), schedule))
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
    x0, model = found.range.to_model(images.pixels), found.classifier()
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
    config = followed(settings("train", "model=classifier", f"model.guides={ncsnv2}"))
    recipe = checkpoint.load(ncsnv2 / "checkpoints" / "last.ckpt").recipe
    assert config["schedule"] == recipe["schedule"]
    assert config["model"]["range"] == "unit"
    assert config["model"]["guides"] is None
    alike = settings("train", "model=classifier")
    assert followed(alike) == alike


def test_it_makes_no_images(classifier, tmp_path):
    done = here(tmp_path, "sample", f"checkpoint={classifier}")
    assert done.status == 2
    assert "is a classifier and makes no images" in done.line()
