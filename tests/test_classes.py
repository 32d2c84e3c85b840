"""Classes by name wherever a person reads them, and in the same shares wherever sets compare."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from running import TINY, here, worked

from diffgen.dataset.random_choices import in_shares, stratified_subset
from diffgen.evaluation.class_shares import differ, rows_in_shares, shares_of
from diffgen.evaluation.frechet import FeatureStats, frechet
from diffgen.evaluation.reference import Reference
from diffgen.evaluation.stored import InMemory

COUNTS = {str(k): 12 + 3 * k for k in range(12)} | {"11": 120}  # of the folders 0 to 11
SCORED = ("features=classifier", "features.steps=6", "features.width=4", "features.dim=8")


@pytest.fixture(scope="module")
def numbered(tmp_path_factory, cache):
    """A folder called mnist of twelve unbalanced classes, and a run that learned it."""
    folder = tmp_path_factory.mktemp("numbered")
    generator = np.random.default_rng(0)
    for name, count in COUNTS.items():
        (folder / "mnist" / name).mkdir(parents=True)
        for k in range(count):
            grey = generator.integers(0, 60, (8, 8)) + 15 * int(name)
            Image.fromarray(grey.astype(np.uint8)).save(folder / "mnist" / name / f"{k}.png")
    words = ("dataset=folder", "dataset.root=mnist", "trainer.max_steps=2")
    done = worked(here(folder, "train", *TINY, *words))
    return folder, folder / done.folder


def sampled(numbered, *words):
    folder, run = numbered
    return here(folder, "sample", f"checkpoint={run}", "accelerator=cpu", "steps=2", *words)


def test_distances_and_labels_carry_the_names_of_folders(numbered):
    """Columns stand in the order of the data set, and labels are asked for by name."""
    words = ("labels=[10,2]", "num_samples=8", "metrics=[fid_per_class]", *SCORED)
    done = worked(sampled(numbered, *words))
    with np.load(numbered[0] / done.folder / "samples.npz") as arrays:
        names = arrays["classes"][arrays["arr_1"]]
    assert names.tolist() == ["10", "2"] * 4
    text = (numbered[0] / done.folder / "table.md").read_text()
    assert "| w | 1 + w | 2 | 10 |" in text
    cell = json.loads((numbered[0] / done.folder / "cells.json").read_text())["cells"][0]
    row = json.loads((numbered[0] / done.folder / cell / "result.json").read_text())
    assert row["classes"] == sorted(COUNTS, key=int)
    assert set(row["fid_per_class"]) == {"10", "2"}


def test_classes_of_too_few_images_are_told_before_they_are_drawn(numbered):
    words = ("labels=[10,10,2]", "num_samples=3", "metrics=[fid_per_class]", "n=3", *SCORED)
    done = worked(sampled(numbered, *words))
    assert "left empty: fid_per_class of 2 (needs 2 images or more of a class" in done.out
    folder = numbered[0] / done.folder / "table.csv"
    assert '{""10"":' in folder.read_text()


def test_samples_reference_and_real_images_take_the_same_shares(numbered):
    two = ("labels=[10,11]", "num_samples=24", "metrics=[fid]")
    done = worked(sampled(numbered, *two, *SCORED))
    text = (numbered[0] / done.folder / "table.md").read_text()
    assert "(76 images, 10: 50 %, 11: 50 %)" in text
    assert "labels=data draws samples in the data set's shares" in done.out + done.err
    assert "| real (test) |" in text
    done = worked(sampled(numbered, "labels=data", "num_samples=30", "metrics=[fid]", *SCORED))
    text = (numbered[0] / done.folder / "table.md").read_text()
    assert "mnist/train (375 images)" in text
    assert "labels data" in text
    with np.load(numbered[0] / done.folder / "samples.npz") as arrays:
        names = arrays["classes"][arrays["arr_1"]].tolist()
    assert names.count("11") == pytest.approx(30 * 120 / sum(COUNTS.values()), abs=1)


def test_rows_count_all_images_where_few_are_held_out_in_their_shares(numbered):
    """Of class 0 one image is held out: no row of one real image, which no distance is of."""
    done = worked(sampled(numbered, "labels=0", "num_samples=9", "metrics=[fid]", *SCORED))
    text = (numbered[0] / done.folder / "table.md").read_text()
    assert "of n = 9 images" in text
    assert "| real (test) |" not in text
    assert "holds out too few images in these shares: no real row" in done.out + done.err


def test_automatic_features_do_not_ask_what_a_folder_is_called(numbered, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(torch.hub, "download_url_to_file", _offline)
    assert "features=inception" in sampled(numbered, "num_samples=2").line()


def _offline(*_, **__):
    raise OSError("no network")


# --- shares ---------------------------------------------------------------------------------


def labels_of(*counts):
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def test_a_perfect_model_reaches_the_distance_of_real_images():
    """Two classes of 90 and 10 %, 8 apart; the perfect model draws each equally often."""

    def law(labels, seed):
        z = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(seed))
        return z.double() + 8 * labels[:, None]

    train, test = labels_of(9000, 1000), labels_of(900, 100)
    identity = {"dataset": "made", "split": "train", "count": "10000"}
    features = law(train, 0)
    whole = Reference(
        InMemory(features), train, FeatureStats.of(features), identity, ("cat", "dog")
    )
    asked = torch.arange(200) % 2
    perfect, held = law(asked, 1), law(test, 2)
    assert differ(asked, train)
    real = held[stratified_subset(test, 200)]
    assert frechet(FeatureStats.of(perfect), whole.stats) > 20 * frechet(
        FeatureStats.of(real), whole.stats
    )
    taken = whole.in_shares(asked)
    assert taken.title == "made/train (2000 images, cat: 50 %, dog: 50 %)"
    assert taken.hash != whole.hash
    real = held[rows_in_shares(test, asked)]
    assert len(real) == 200
    ratio = frechet(FeatureStats.of(perfect), taken.stats) / frechet(
        FeatureStats.of(real), taken.stats
    )
    assert 0.2 < ratio < 5
    one = whole.in_shares(torch.ones(9, dtype=torch.int64))
    assert one.title == "made/train (1000 images, dog: 100 %)"


@pytest.mark.parametrize("counts", [(5, 1), (1, 1, 1), (600, 30, 1), (0, 3, 0, 1)], ids=str)
def test_labels_in_shares_are_so_in_every_front_part(counts):
    labels = labels_of(*counts)
    drawn = in_shares(labels, 50)
    assert len(drawn) == 50
    assert torch.equal(drawn[:20], in_shares(labels, 20))
    shares = torch.tensor(counts) / len(labels)
    for n in (1, 7, 20, 50):
        found = drawn[:n].bincount(minlength=len(counts))
        assert (found - n * shares).abs().max() <= 1


def test_shares_differ_by_more_than_chance_only():
    assert not differ(labels_of(10, 10), labels_of(102, 98))
    assert not differ(in_shares(labels_of(7, 1, 1), 9), labels_of(7000, 1100, 900))
    assert not differ(labels_of(500, 500), labels_of(520, 480))
    assert differ(labels_of(500, 500), labels_of(540, 460))
    assert differ(labels_of(10, 10), labels_of(120, 80))
    assert differ(labels_of(0, 4), labels_of(5, 5))


def test_rows_in_shares_are_as_many_as_there_can_be():
    have = labels_of(90, 10, 40)
    assert have[rows_in_shares(have, labels_of(2, 2, 2))].bincount().tolist() == [10, 10, 10]
    assert have[rows_in_shares(have, labels_of(3, 0, 1))].bincount().tolist() == [90, 0, 30]
    assert len(rows_in_shares(have, labels_of(1, 1, 1, 1))) == 0


def test_few_classes_are_named_with_their_shares():
    assert shares_of(labels_of(1, 3), ("cat", "dog")) == "cat: 25 %, dog: 75 %"
    names = tuple("abcdefg")
    assert shares_of(labels_of(*[4] * 7), names) == "7 classes in equal shares"
    assert shares_of(labels_of(*range(1, 8)), names) == "7 classes in the shares of the samples"


def test_a_class_that_the_reference_lacks_is_named():
    features = torch.randn(10, 2).double()
    identity = {"dataset": "made", "split": "train", "count": "10"}
    have = Reference(
        InMemory(features), labels_of(5, 5, 0), FeatureStats.of(features), identity, (*"abc",)
    )
    with pytest.raises(Exception, match=r"too few images of the classes .*\(c: 100 %\)"):
        have.in_shares(torch.tensor([2, 2]))
