"""Quality while training: its figures, the best checkpoint, and a training that stays the same."""

import csv
from types import SimpleNamespace

import pytest
import torch
from conftest import trained
from running import TINY, assert_same, contents, here, worked

from diffgen.dataset.images import in_memory
from diffgen.dataset.random_choices import subset
from diffgen.runs.checkpoint import load
from diffgen.runs.locate import locate
from diffgen.runtime.metrics_csv import MetricsCsv
from diffgen.training.quality import HeldOutLoss

CONSTANT = "optimizer.decay=constant"  # so that a run may be made longer
EVALUATED = (
    CONSTANT,
    *("evaluate.every=20", "evaluate.num_samples=30", "evaluate.steps=3"),
    *("evaluate.features=random", "evaluate.held_out=50"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """40 steps, measured at 20 and 40, a row of the log every 5."""
    return trained(tmp_path_factory.mktemp("quality"), *EVALUATED)


def rows(run):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_figures_stand_in_the_log_at_their_steps(run):
    found = rows(run)
    assert [int(row["step"]) for row in found] == list(range(5, 41, 5))
    for row in found:
        measured = int(row["step"]) % 20 == 0
        assert bool(row["fd"]) == bool(row["held_out_loss"]) == measured
        assert row["loss"]
    assert any(name.startswith("held_out_loss/t0.") for name in found[0])
    assert float(found[-1]["held_out_loss"]) < float(found[3]["held_out_loss"])
    assert (run / "curves.png").stat().st_size > 10_000


def test_the_best_checkpoint_is_that_of_the_least_distance(run, tmp_path):
    measured = {int(row["step"]): float(row["fd"]) for row in rows(run) if row["fd"]}
    path = locate(f"{run}/best", tmp_path)
    assert path == run / "checkpoints" / "best.ckpt"
    assert load(path).step == min(measured, key=measured.__getitem__)
    words = (f"checkpoint={run}/best", "steps=2", "num_samples=2", "metrics=[]")
    worked(here(tmp_path, "sample", *words))


def test_measuring_changes_no_bit_of_the_training(run, tmp_path, cache):
    """Also of one that was stopped and resumed, whose best figure is remembered."""
    plain = contents(trained(tmp_path, CONSTANT) / "checkpoints" / "last.ckpt")
    measured = contents(run / "checkpoints" / "last.ckpt")
    for key in ("state_dict", "ema", "optimizer_states"):
        assert_same(plain[key], measured[key], key)
    (tmp_path / "parts").mkdir()
    first = trained(tmp_path / "parts", *EVALUATED, "trainer.max_steps=20")
    worked(here(tmp_path / "parts", "train", f"resume={first}", "trainer.max_steps=40"))
    again = contents(first / "checkpoints" / "last.ckpt")
    for key in ("state_dict", "ema", "optimizer_states"):
        assert_same(again[key], measured[key], key)
    (lowest,) = (s["lowest"] for s in again["callbacks"].values() if "lowest" in s)
    assert lowest == pytest.approx(min(float(row["fd"]) for row in rows(run) if row["fd"]))


REFUSED = {
    ("model=classifier", "evaluate.best=fd"): "evaluate.best=fd is not measured",
    ("evaluate.num_samples=0", "evaluate.best=fd"): "evaluate.best=fd is not measured",
    ("evaluate.features=nothing",): "no features=nothing",
}


@pytest.mark.parametrize(("words", "line"), REFUSED.items())
def test_what_cannot_be_measured_is_refused_before_the_first_step(tmp_path, cache, words, line):
    network = () if "model=classifier" in words else TINY
    done = here(tmp_path, "train", *network, "preview.every=0", EVALUATED[1], *words)
    assert (done.status, done.line()[: len(line)]) == (2, line)


def test_held_out_images_and_their_noise_are_the_same_each_time():
    """Against means over the images themselves, whatever the batch."""
    pixels = torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(60, 1, 2, 2)
    images = in_memory(pixels.contiguous(), torch.arange(60) % 3, ("a", "b", "c"), "sixty")
    noises = []

    def loss(x0, label, random):
        t = random.local(random.uniform("time"))
        noises.append((label, random.normal(x0)))
        return x0.flatten(1).mean(1), t

    def images_of(pixels, random):
        return pixels.float()

    module = SimpleNamespace(
        batch_size=7, device=torch.device("cpu"), num_classes=3, loss=loss, images=images_of
    )
    measure = HeldOutLoss(images, 40)
    found = measure(module)
    taken = subset(60, 40)
    assert found["held_out_loss"] == pytest.approx(taken.double().mean().item())
    assert torch.equal(torch.cat([label for label, _ in noises]), taken % 3)
    first = [noise for _, noise in noises]
    noises.clear()
    assert measure(module) == found
    assert all(torch.equal(a, b) for a, (_, b) in zip(first, noises, strict=True))
    assert not torch.equal(first[0], first[1])


def test_more_figures_of_a_step_join_its_row(tmp_path):
    log = MetricsCsv(tmp_path / "metrics.csv")
    log.log_metrics({"fd": 3.0}, 10)
    log.log_metrics({"loss": 1.0}, 10)
    log.log_metrics({"loss": 0.5}, 20)
    log.log_metrics({"fd": 2.0}, 20)
    with log.path.open(newline="") as file:
        found = [dict(row) for row in csv.DictReader(file)]
    assert found == [
        {"fd": "3.0", "loss": "1.0", "step": "10"},
        {"fd": "2.0", "loss": "0.5", "step": "20"},
    ]
