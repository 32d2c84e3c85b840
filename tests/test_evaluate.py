"""`diffgen evaluate`: the same figures from any container, and joined to tables of samples."""

import csv
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from running import here, worked
from sklearn.datasets import load_digits
from torch_fidelity import metric_fid

from diffgen.dataset.digits import Digits
from diffgen.evaluation.frechet import FeatureStats, frechet
from diffgen.evaluation.metrics import METRICS, evaluate
from diffgen.evaluation.random_network import RandomExtractor
from diffgen.evaluation.reference import reference
from diffgen.evaluation.scored import Scored
from diffgen.evaluation.scoring import score

RANDOM = ("features=random", "features.dim=16")


@pytest.fixture(scope="module")
def containers(tmp_path_factory):
    """Sixty noisy digits as a folder, a zip and an .npz."""
    folder = tmp_path_factory.mktemp("foreign")
    digits = load_digits().images[:60] * 255 / 16
    noise = np.random.default_rng(0).normal(0, 30, digits.shape)
    pixels = np.clip(digits + noise, 0, 255).astype(np.uint8)
    np.savez(folder / "images.npz", pixels[..., None])
    (folder / "images").mkdir()
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for k, image in enumerate(pixels):
            Image.fromarray(image).save(folder / "images" / f"{k:03}.png")
            archive.write(folder / "images" / f"{k:03}.png", f"{k:03}.png")
    return folder, torch.from_numpy(pixels)[:, None]


def evaluated(folder, *words):
    done = worked(here(folder, "evaluate", *words))
    table = (folder / done.folder / "table.csv").read_text().splitlines()
    return done, list(csv.DictReader(table))


def test_a_folder_a_zip_and_an_array_have_the_same_figures(containers, cache):
    folder, pixels = containers
    rows = []
    for name in ("images", "images.zip", "images.npz"):
        done, found = evaluated(folder, name, "--against", "digits", *RANDOM, "metrics=all")
        rows.append({k: v for k, v in found[1].items() if k not in ("sampler", "images")})
        assert found[0]["sampler"] == "real (test)"
        assert found[1]["sampler"] == name
        assert "digits/train (1438 images)" in done.out
    figures = [{k: v for k, v in row.items() if k != "fingerprint"} for row in rows]
    assert figures[0] == figures[1] == figures[2]
    extractor = RandomExtractor(dim=16)
    train = extractor(Digits().split("train").pixels).features
    truth = frechet(FeatureStats.of(extractor(pixels).features), FeatureStats.of(train))
    assert float(rows[0]["fid"]) == pytest.approx(truth, rel=1e-9)
    assert float(rows[0]["fid"]) > float(found[0]["fid"])
    assert float(rows[0]["fid_test"]) > 0
    with Image.open(folder / done.folder / "nearest.png") as picture:
        assert min(picture.size) > 400


@pytest.mark.parametrize("size", [1, 64, 1000])
def test_figures_are_the_same_however_many_images_are_handed_on_at_once(size, cache):
    """Of all metrics, to 1e-9: the network sees as many at once each time."""
    digits, extractor = Digits(), RandomExtractor(dim=16)
    real, test = digits.split("train"), digits.split("test")
    compared = reference(real, "train", extractor, cache, count=400)
    compared = replace(compared, held_out=reference(test, "test", extractor, cache))
    extractor.batch = 16  # quick: one image is padded to as many
    rows = torch.arange(300)
    pixels, labels = real.at(1000 + rows), real.labels[1000 + rows]
    truth = score(pixels, labels, extractor, compared, ["all"])
    parts = (extractor(pixels[part]) for part in rows.split(size))
    found = evaluate(["all"], Scored.of(pixels, parts, labels, False), compared)
    assert len(found) > len(METRICS)
    for name, value in found.items():
        if isinstance(value, float):
            assert value == pytest.approx(truth[name], rel=1e-9, abs=1e-12), name


def test_the_row_joins_a_table_of_samples(containers, ddpm, cache, tmp_path):
    folder, _ = containers
    words = (f"checkpoint={ddpm}", "num_samples=60", "steps=2", "metrics=[fid]", *RANDOM)
    samples = tmp_path / worked(here(tmp_path, "sample", *words, "accelerator=cpu")).folder
    done, _ = evaluated(folder, "images.npz", "--against", "digits", *RANDOM, "--name", "theirs")
    joined = worked(here(tmp_path, "table", str(samples), str(folder / done.folder)))
    assert "theirs" in joined.out
    assert "ddim" in joined.out
    assert joined.out.count("real (test)") == 1


def test_statistics_are_written_and_read_as_other_programs_do(containers, cache, tmp_path):
    folder, pixels = containers
    words = ("images.npz", "--against", "digits", *RANDOM, "metrics=[fid]")
    evaluated(folder, *words, "--save-stats", str(tmp_path / "stats.npz"))
    features = RandomExtractor(dim=16)(pixels).features
    theirs = metric_fid.fid_features_to_statistics(features)
    with np.load(tmp_path / "stats.npz", allow_pickle=False) as found:
        np.testing.assert_allclose(found["mu"], theirs["mu"], rtol=1e-9)
        np.testing.assert_allclose(found["sigma"], theirs["sigma"], rtol=1e-6, atol=1e-12)
    against = ("images", "--against", str(tmp_path / "stats.npz"), *RANDOM)
    done, (row,) = evaluated(folder, *against, "metrics=[fid,kid,recall]")
    assert "stats.npz (statistics of another program)" in done.out
    assert float(row["fid"]) == pytest.approx(0, abs=1e-6)
    assert row["kid"] == row["recall"] == ""
    assert json.loads((folder / done.folder / "0" / "result.json").read_text())["n"] == 60


def test_a_batch_of_images_is_a_reference(containers, cache):
    """As ADM's reference batches, which hold arr_0."""
    folder, _ = containers
    _, (row,) = evaluated(folder, "images", "--against", "images.npz", *RANDOM)
    assert row["reference"] == "images/all (60 images)"
    assert float(row["precision"]) == float(row["coverage"]) == 1


def test_figures_that_stay_empty_are_told_with_what_they_need(containers, cache, caplog):
    caplog.set_level("INFO")
    words = ("n=1", "features=random", "metrics=[authpct_pixels,c_t,saturation]")
    evaluated(containers[0], "images", "--against", "images", *words, "--out", "few")
    told = "c_t (needs 2 held-out images or more), authpct_pixels (needs 2 images or more)"
    assert f"left empty: {told}" in caplog.messages
    words = ("features=random", "metrics=[fid_per_class]")
    _, (row,) = evaluated(containers[0], "images", "--against", "images", *words, "--out", "bare")
    told = "fid_per_class (needs labels of the images and of the reference)"
    assert f"left empty: {told}" in caplog.messages
    assert row["fid_per_class"] == ""


def test_grey_images_may_have_three_channels_on_either_side(containers, cache, tmp_path):
    """As evaluators of other programs want them."""
    folder, pixels = containers
    np.savez(tmp_path / "three.npz", pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy())
    for mine, real in ((folder / "images", "three.npz"), ("three.npz", folder / "images.npz")):
        _, (row,) = evaluated(tmp_path, str(mine), "--against", str(real), *RANDOM)
        assert float(row["fid"]) == pytest.approx(0, abs=1e-6)
        assert float(row["precision"]) == 1


def test_labels_are_matched_by_name(cache, tmp_path):
    digits = Digits().split("test")
    pixels = digits.at(torch.arange(80)).permute(0, 2, 3, 1).numpy()
    labels = digits.labels[:80].numpy()
    names = np.array([str(9 - k) for k in range(10)])
    np.savez(tmp_path / "a.npz", pixels, 9 - labels, classes=names)
    np.savez(tmp_path / "b.npz", pixels, labels)
    scored = (
        "--against",
        "digits",
        "features=classifier",
        "features.steps=60",
        "metrics=accuracy",
    )
    found = [evaluated(tmp_path, name, *scored)[1][1]["accuracy"] for name in ("a.npz", "b.npz")]
    assert found[0] == found[1]
    assert float(found[0]) > 0.5


ANSWERS = {
    ("absent.npz", "--against", "digits", *RANDOM): "no images at absent.npz",
    (
        "images",
        "--against",
        "mnst",
        *RANDOM,
    ): "--against mnst is no folder, zip or .npz",
    ("images",): "the following arguments are required: --against",
    (
        "images",
        "--against",
        "digits",
        "metrcs=[fid]",
    ): "no key 'metrcs' of diffgen evaluate; did",
    ("images", "--against", "digits", *RANDOM, "n=61"): "n=61: images has 60 images",
    ("images", "--against", "digits", *RANDOM, "n=many"): "n=many is no number",
    ("images", "--against", "digits", *RANDOM, "metrics=[fib]"): "no metric fib; ",
    ("images", "--against", "digits", *RANDOM, "metrics=fid,is"): "several as metrics=[fid,is]",
    ("bare", "--against", "digits", *RANDOM): "diffgen: no images in bare",
    ("bad", "--against", "digits", *RANDOM): "anew as 8-bit PNGs, or leave the file out",
    ("/dev/zero", "--against", "digits", *RANDOM): "no images at /dev/zero: a folder, a zip or",
    ("images", "--against", "images", "features=classifier"): "needs a data set of diffgen",
    ("floats.npz", "--against", "digits", *RANDOM): "arr_0, uint8 (N, H, W, C), and has float64",
    ("objects.npz", "--against", "digits", *RANDOM): "objects.npz is no .npz of plain arrays",
    ("text.npz", "--against", "digits", *RANDOM): "text.npz is no .npz of plain arrays",
    (
        "colour.npz",
        "--against",
        "digits",
        *RANDOM,
    ): "are 8x8 of 3 channels, those of digits",
    ("images", "--against", "wide.npz", *RANDOM): "is of 3 features, and features=random has 16",
    ("images", "--against", "nan.npz", *RANDOM): "mu or sigma is not finite",
}


@pytest.mark.parametrize(("words", "answer"), ANSWERS.items(), ids=lambda value: str(value)[:40])
def test_a_mistake_gets_one_line(words, answer, containers, cache):
    folder, _ = containers
    np.savez(folder / "floats.npz", np.zeros((3, 8, 8, 1)))
    np.savez(folder / "objects.npz", arr_0=np.array([{"harm": 1}], dtype=object))
    (folder / "text.npz").write_text("not a zip")
    np.savez(folder / "colour.npz", np.arange(576, dtype=np.uint8).reshape(3, 8, 8, 3))
    for name in ("bare", "bad"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "bad" / "a.png").write_text("no picture")
    np.savez(folder / "wide.npz", mu=np.zeros(3), sigma=np.eye(3))
    np.savez(folder / "nan.npz", mu=np.full(16, np.nan), sigma=np.eye(16))
    done = here(folder, "evaluate", *words)
    assert done.status == 2
    assert answer in done.err.splitlines()[-1]
    assert "root=" not in done.err
    assert "Traceback" not in done.err


def test_an_unknown_name_is_told_before_features_are_loaded(containers, cache, monkeypatch):
    monkeypatch.setattr("diffgen.commands.evaluate.pretrained", lambda *_: 1 / 0)
    done = here(containers[0], "evaluate", "images.npz", "--against", "nosuch")
    assert done.status == 2
    assert done.line().startswith("--against nosuch is no folder, zip or .npz, and no data set of")
    assert "folder" not in done.line().rpartition(" of ")[2]  # no name that asks for more


def test_whole_numbers_may_be_written_as_floats(containers, cache):
    words = ("images.npz", "--against", "digits", *RANDOM, "metrics=[fid]")
    _, rows = evaluated(containers[0], *words, "n=4e1")
    assert rows[-1]["n"] == "40"
    assert here(containers[0], "evaluate", *words, "n=4.5").line() == "n=4.5 is no number from 1"
