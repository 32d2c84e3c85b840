"""Averages of any width after the training: against integrals, tracked averages and real runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import trained
from running import here, worked

from diffgen.errors import UsageError
from diffgen.runs.checkpoint import load
from diffgen.runs.posthoc import Profile, coefficients, combined, width_of
from diffgen.training.ema import EmaSettings, exponent

STEPS, FILES = 800, 16
RNG = np.random.default_rng(0)
WALK = np.cumsum(RNG.normal(size=(STEPS + 1, 40)), 0)  # weights that move as those of a training


def tracked(width, stops=(STEPS,)):
    """{step: the average} by the training's own recursion."""
    beta, average, found = EmaSettings(width=width).beta(), WALK[1], {}
    for n in range(1, STEPS + 1):
        average = beta(n) * average + (1 - beta(n)) * WALK[n]
        if n in stops:
            found[n] = average
    return found


KEPT = {
    Profile(step, width): average
    for width in (0.05, 0.1)
    for step, average in tracked(width, range(STEPS // FILES, STEPS + 1, STEPS // FILES)).items()
}


@pytest.mark.parametrize("width", [0.05, 0.06, 0.07, 0.08, 0.12, 0.15, 0.2])
def test_a_width_that_nobody_tracked_misses_less_than_a_hundredth_of_the_nearest(width):
    factors = coefficients(list(KEPT), Profile(STEPS, width))
    made = sum(factor * average for factor, average in zip(factors, KEPT.values(), strict=True))
    truth = tracked(width)[STEPS]
    nearest = min(np.linalg.norm(KEPT[Profile(STEPS, w)] - truth) for w in (0.05, 0.1))
    missed = np.linalg.norm(made - truth)
    assert missed <= 0.01 * nearest if width != 0.05 else missed < 1e-10 * np.linalg.norm(truth)


@pytest.mark.parametrize("other", [Profile(300, 0.05), Profile(700, 0.2), Profile(500, 0.1)])
def test_profiles_overlap_as_their_integral(other):
    one = Profile(500, 0.1)
    t = (np.arange(210_000) + 0.5) / 210_000 * 700

    def density(profile):
        power = exponent(profile.width)
        inside = (t / profile.step) ** power * (power + 1) / profile.step
        return np.where(t <= profile.step, inside, 0)

    integral = (density(one) * density(other)).mean() * 700
    assert one.overlap(other) == pytest.approx(integral, rel=1e-5)


def test_a_sum_of_weights_keeps_their_type_and_adds_in_double_precision():
    parts = [(0.75, {"a": torch.tensor([1e8, 1.0])}), (-0.75, {"a": torch.tensor([1e8, -1.0])})]
    made = combined(parts)["a"]
    assert made.dtype == torch.float32
    assert made.tolist() == [0.0, 1.5]


def test_numbers_are_widths_and_words_are_names():
    assert [width_of(ema) for ema in (0.1, "0.15", "average", "raw", None)] == [
        *(0.1, 0.15),
        *(None, None, None),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """A run that keeps two widths in eight files, and tracked a third one for the truth."""
    words = ("ema=ddpm_posthoc", "trainer.ema_snapshots=8", "+ema.truth={width: 0.15}")
    return trained(tmp_path_factory.mktemp("posthoc"), *words)


def test_a_run_gives_the_average_that_it_tracked(run):
    checkpoint = load(run / "checkpoints" / "last.ckpt")
    known = {name: kept for name, kept in checkpoint.recipe["ema"].items() if name != "truth"}
    untold = replace(checkpoint, recipe={**checkpoint.recipe, "ema": known})
    made, truth = untold.weights(0.15), checkpoint.states["truth"]
    nearest = checkpoint.states["wide"]

    def missed(weights):
        return sum(float((weights[key] - truth[key]).square().sum()) for key in truth) ** 0.5

    assert made.keys() == truth.keys()
    assert missed(made) < 0.05 * missed(nearest)  # 40 steps and 8 files only
    assert len(untold.made_of(0.15)) == 8
    assert untold.made_of("average") == [checkpoint.hash]


def test_widths_are_a_sweep_of_their_own_cells(run, tmp_path):
    words = ("steps=2", "num_samples=2", "metrics=[]")
    done = worked(here(tmp_path, "sample", "-m", f"checkpoint={run}", "ema=0.1,0.15", *words))
    images = [np.load(path)["arr_0"] for path in done.folder.glob("*/samples.npz")]
    assert len(images) == 2
    assert (images[0] != images[1]).any()


@pytest.mark.parametrize(
    ("word", "line"),
    {
        "ema=0.4": "ema=0.4: a relative width lies between 0 and 0.28",
        "ema=0.004": "ema=0.004 cannot be made of what this run kept",
    }.items(),
    ids=str,
)
def test_a_width_that_cannot_be_had_ends_in_one_line(run, tmp_path, word, line):
    done = here(tmp_path, "sample", f"checkpoint={run}", word)
    assert (done.status, done.line()[: len(line)]) == (2, line)


def test_a_file_of_averages_alone_is_begun_from_and_names_them(run, tmp_path):
    file = str(run / "checkpoints" / "ema_0000020.ckpt")
    for words in (("sample", f"checkpoint={file}"), ("train", f"init={file}", "init_ema=raw")):
        raw = ("ema=raw",) if words[0] == "sample" else ()
        line = here(tmp_path, *words, *raw).line()
        assert line.endswith("ema_0000020.ckpt; there is narrow, truth, wide")
    short = ("trainer.max_steps=1", "trainer.batch_size=4", "preview.every=0", "logger=none")
    worked(here(tmp_path, "train", f"init={file}", "init_ema=0.15", *short))


def test_a_run_without_widths_says_how_to_keep_them(ddpm, tmp_path):
    done = here(tmp_path, "sample", f"checkpoint={ddpm}", "ema=0.1")
    assert "train with ema=ddpm_posthoc" in done.line()


def test_averages_alone_are_no_training_and_name_their_run(run, tmp_path):
    averages = run / "checkpoints" / "ema_0000010.ckpt"
    done = here(tmp_path, "train", f"resume={averages}")
    assert done.status == 2
    assert done.line().endswith(f"resume={run} goes on with their run")


def test_a_damaged_file_is_named_and_a_later_one_is_not_used(run, tmp_path):
    checkpoint = load(run / "checkpoints" / "last.ckpt")
    earlier = load(run / "checkpoints" / "ema_0000020.ckpt")
    assert len(earlier.made_of(0.1)) == 4
    assert earlier.average(None) == "narrow"
    assert earlier.denoiser(0.1).network  # a checkpoint that has averages alone
    first = run / "checkpoints" / "ema_0000005.ckpt"
    content = first.read_bytes()
    try:
        first.write_bytes(content[:-200])
        with pytest.raises(UsageError, match="ema_0000005"):
            checkpoint.weights(0.12)
    finally:
        first.write_bytes(content)
