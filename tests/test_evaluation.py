"""Scores against closed forms and other programs; what a table may hold; the features' network."""

import csv
import json
import logging
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from running import here, worked
from safetensors import safe_open
from safetensors.torch import save
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torch_fidelity import metric_fid, metric_kid, metric_prc

from diffgen.config.build import typed
from diffgen.dataset.digits import Digits
from diffgen.dataset.images import Images
from diffgen.dataset.random_choices import stratified_subset, subset
from diffgen.errors import UsageError
from diffgen.evaluation import cache, kernel_distance, neighbours, table
from diffgen.evaluation.class_shares import rows_in_shares
from diffgen.evaluation.features import Features, batches, described, joined
from diffgen.evaluation.features_classifier import (
    ClassifierExtractor,
    FeaturesClassifier,
    cached,
    shifted,
)
from diffgen.evaluation.frechet import FeatureStats, frechet
from diffgen.evaluation.inception import InceptionExtractor
from diffgen.evaluation.metrics import METRICS, evaluate
from diffgen.evaluation.reference import Reference, identity_of, reference
from diffgen.evaluation.rows import FLOOR, blocks
from diffgen.evaluation.scored import Scored
from diffgen.evaluation.scoring import floor
from diffgen.evaluation.stored import InMemory
from diffgen.evaluation.table_formats import print_parts
from diffgen.files import sha256
from diffgen.network.classifier import Classifier
from diffgen.runs.result_file import collect


def write(folder, rows):
    table.write(folder, blocks(rows))


def show(rows):
    print_parts(table.parts(blocks(rows), classes=False))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def bytes_of(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


# --- the Fréchet distance -------------------------------------------------------------------


def with_moments(mean, covariance, count=200, seed=0):
    """Features whose sample mean and covariance are exactly these."""
    z = normal(count, len(mean), seed=seed)
    z = z - z.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(z.T)), z.T, upper=False)
    return (torch.linalg.cholesky(covariance) @ white).T + mean


def covariance(dim, seed):
    root = normal(dim, dim, seed=seed)
    return root @ root.T / dim + 0.1 * torch.eye(dim)


def test_frechet_of_independent_gaussians_is_the_textbook_sum():
    a, b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 1.0, 0.25]).double()
    shift = torch.tensor([1.0, -2.0, 3.0]).double()
    mine, theirs = with_moments(shift, a.diag()), with_moments(0 * shift, b.diag(), 333, 1)
    truth = 1 + 4 + 9 + ((a.sqrt() - b.sqrt()) ** 2).sum()
    assert frechet(FeatureStats.of(mine), FeatureStats.of(theirs)) == pytest.approx(
        truth.item(), abs=1e-9
    )


def test_features_that_are_not_finite_have_no_distance():
    good = torch.randn(10, 3, dtype=torch.float64)
    bad = good.clone()
    bad[4, 1] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        frechet(FeatureStats.of(bad), FeatureStats.of(good))


def test_frechet_of_correlated_gaussians_is_scipys():
    s1, s2 = covariance(6, 1), covariance(6, 2)
    mine, theirs = with_moments(normal(6), s1), with_moments(0 * normal(6), s2, 333, 1)
    cross = scipy.linalg.sqrtm((s1 @ s2).numpy()).real
    truth = (normal(6) ** 2).sum() + s1.trace() + s2.trace() - 2 * np.trace(cross)
    assert frechet(FeatureStats.of(mine), FeatureStats.of(theirs)) == pytest.approx(
        truth.item(), abs=1e-9
    )


@pytest.mark.parametrize("count", [500, 70, 20], ids=lambda n: f"n={n}")
def test_frechet_agrees_with_torch_fidelity(count):
    mine, theirs = normal(count, 64) + 1, 2 * normal(900, 64, seed=1)
    parts = [metric_fid.fid_features_to_statistics(part) for part in (mine, theirs)]
    truth = metric_fid.fid_statistics_to_metric(*parts, False)["frechet_inception_distance"]
    assert frechet(FeatureStats.of(mine), FeatureStats.of(theirs)) == pytest.approx(
        truth, rel=1e-6
    )


@pytest.mark.parametrize("count", [3, 40, 400], ids=lambda n: f"n={n}")
def test_frechet_of_a_set_to_itself_is_nothing_and_never_negative(count):
    mine = 10 * normal(count, 64)
    assert 0 <= frechet(FeatureStats.of(mine), FeatureStats.of(mine)) < 1e-4


def test_frechet_needs_two_images():
    with pytest.raises(UsageError, match="at least 2"):
        frechet(FeatureStats.of(normal(1, 4)), FeatureStats.of(normal(9, 4)))


# --- precision and recall -------------------------------------------------------------------


def test_precision_and_recall_of_points_on_a_line():
    real = torch.tensor([[0.0], [1.0], [3.0], [6.0]]).double()
    # with k = 1 the real balls are [-1, 1], [0, 2], [1, 5], [3, 9]: together [-1, 9]
    generated = torch.tensor([[-1.5], [-0.5], [9.5], [9.0]]).double()
    # and the generated ones [-2.5, -.5], [-1.5, .5], [9, 10], [8.5, 9.5]: 0 is in, 1, 3, 6 are not
    assert neighbours.share_on_manifold(generated, real, k=1) == 0.5
    assert neighbours.share_on_manifold(real, generated, k=1) == 0.25


def brute_force(points, centres, k=3):
    near = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(centres)
    radii = near.kneighbors(centres)[0][:, k]
    distances = np.linalg.norm(points[:, None] - centres[None], axis=-1)
    return (distances <= radii).any(1).mean()


@pytest.mark.parametrize("at_once", [2**24, 1000], ids=["one block", "many blocks"])
def test_precision_and_recall_agree_with_brute_force_and_torch_fidelity(at_once, monkeypatch):
    monkeypatch.setattr(neighbours, "NUMBERS_AT_ONCE", at_once)
    generated, real = 0.8 * normal(150, 5) + 0.3, normal(230, 5, seed=1)
    found = (
        neighbours.share_on_manifold(generated, real),
        neighbours.share_on_manifold(real, generated),
    )
    pairs = ((generated.numpy(), real.numpy()), (real.numpy(), generated.numpy()))
    assert found == pytest.approx([brute_force(*pair) for pair in pairs], abs=1e-12)
    theirs = metric_prc.prc_features_to_metric(generated, real, verbose=False)
    assert found == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)
    assert 0.5 < found[1] < found[0] < 1


def test_precision_and_recall_need_more_points_than_neighbours():
    with pytest.raises(UsageError, match="more than 3"):
        neighbours.share_on_manifold(normal(9, 2), normal(3, 2))


# --- the metrics by name --------------------------------------------------------------------


def reference_of(features, labels=None):
    identity = {"dataset": "made", "split": "train", "count": str(len(features))}
    return Reference(InMemory(features), labels, FeatureStats.of(features), identity)


def scored(features, labels=None, logits=None, images=None):
    images = torch.zeros(len(features), 1, 8, 8, dtype=torch.uint8) if images is None else images
    return Scored.of(images, [Features(features, logits)], labels)


def test_accuracy_counts_the_labels_asked_for():
    logits = torch.eye(4).double()[[0, 1, 2, 3, 3]]
    found = scored(normal(5, 2), torch.tensor([0, 1, 2, 3, 0]), logits)
    assert evaluate(["accuracy"], found, reference_of(normal(9, 2))) == {"accuracy": 0.8}


def test_accuracy_is_blank_without_labels_or_logits():
    real = reference_of(normal(9, 2))
    for blank in (scored(normal(5, 2)), scored(normal(5, 2), torch.zeros(5))):
        assert evaluate(["accuracy"], blank, real) == {"accuracy": None}


def test_saturation_is_the_share_of_bytes_at_either_end():
    images = torch.tensor([0, 1, 254, 255, 255, 128, 7, 8], dtype=torch.uint8).view(2, 1, 2, 2)
    found = scored(normal(2, 2), images=images)
    assert evaluate(["saturation"], found, reference_of(normal(9, 2))) == {"saturation": 0.375}


def test_distance_per_class_is_the_distance_of_the_class():
    labels, theirs = torch.arange(90) % 3, torch.arange(120) % 4
    mine, real = normal(90, 5) + labels[:, None], normal(120, 5, seed=1)
    found = evaluate(["fid_per_class"], scored(mine, labels), reference_of(real, theirs))
    truth = {
        str(k): frechet(FeatureStats.of(mine[k::3]), FeatureStats.of(real[k::4])) for k in range(3)
    }
    assert found == {"fid_per_class": pytest.approx(truth)}


def test_kid_of_the_whole_set_is_torch_fidelitys_mmd():
    mine, real = normal(60, 5) + 0.5, normal(60, 5, seed=1)
    found = evaluate(["kid"], scored(mine), reference_of(real))
    options = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_coef0": 1}
    truth = metric_kid.kernel_mmd(
        real.numpy(), mine.numpy(), kid_kernel_poly_gamma=None, **options
    )
    assert found["kid"] == pytest.approx(truth, rel=1e-9)
    assert found["kid_std"] is None  # all subsets are the whole set


def test_kid_repeats_itself_and_leaves_the_global_generator_alone(monkeypatch):
    monkeypatch.setattr(kernel_distance, "SUBSET", 50)
    mine, real = scored(normal(120, 3) + 0.2), reference_of(normal(110, 3, seed=1))
    before = torch.get_rng_state()
    first = evaluate(["kid"], mine, real)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(1)
    assert first == evaluate(["kid"], mine, real)
    assert first["kid_std"] > 0


def test_precision_compares_equal_numbers():
    mine, real = normal(40, 3), normal(400, 3, seed=1)
    few = real[subset(400, 40)]
    found = evaluate(["precision", "recall"], scored(mine), reference_of(real))
    truth = (neighbours.share_on_manifold(mine, few), neighbours.share_on_manifold(few, mine))
    assert (found["precision"], found["recall"]) == truth


def test_an_unknown_metric_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="no metric acuracy; did you mean accuracy"):
        evaluate(["fid", "acuracy"], scored(normal(5, 2)), reference_of(normal(9, 2)))
    assert evaluate([], scored(normal(5, 2)), reference_of(normal(9, 2))) == {}


# --- extractors -----------------------------------------------------------------------------


class Projection(nn.Module):
    """Stands in for a classifier: features x W, logits, dropout in between."""

    channels, size, dim = 1, 8, 6

    def __init__(self, seed=0):
        super().__init__()
        self.inner = nn.Conv2d(1, 4, 3)
        self.outer = nn.Linear(4 * 36, self.dim)
        self.dropout = nn.Dropout(0.5)
        for k, weight in enumerate(self.parameters()):
            weight.data = normal(*weight.shape, seed=seed + k).float() / 3

    def features(self, x):
        hidden = self.outer(self.dropout(self.inner(x).flatten(1)))
        return hidden, hidden[:, :3] * 2


def test_classifier_features_are_those_of_images_scaled_to_plus_minus_one():
    network, images = Projection().eval(), bytes_of(5, 1, 8, 8)
    found = ClassifierExtractor(network, batch=4)(images)
    truth = network.features(images.float() / 127.5 - 1)
    assert found.features.dtype == found.logits.dtype == torch.float64
    torch.testing.assert_close(found.features.float(), truth[0])
    torch.testing.assert_close(found.logits.float(), truth[1])


@pytest.mark.parametrize("size", [1, 7, 64])
def test_features_of_an_image_do_not_depend_on_its_company(size):
    extractor = ClassifierExtractor(Classifier(channels=1, size=8, num_classes=10), batch=32)
    images = bytes_of(64, 1, 8, 8)
    whole, order = extractor(images), torch.randperm(64)
    parts = torch.cat([extractor(part).features for part in images[order].split(size)])
    assert torch.equal(parts, whole.features[order])
    assert torch.equal(joined(list(batches(extractor, images, order))).features, parts)


def test_extractor_stays_in_evaluation_mode_and_full_precision():
    extractor, images = ClassifierExtractor(Projection()), bytes_of(5, 1, 8, 8)
    plain = extractor(images)
    extractor.module.train()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(extractor(images).features, plain.features)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert not plain.features.requires_grad


def test_extractor_keeps_the_weights_its_hash_names():
    network, images = Projection(), bytes_of(5, 1, 8, 8)
    extractor = ClassifierExtractor(network)
    before = extractor(images).features
    assert extractor.hash == ClassifierExtractor(Projection()).hash
    network.outer.weight.data += 1e-6
    assert torch.equal(extractor(images).features, before)
    assert ClassifierExtractor(network).hash != extractor.hash


@pytest.mark.parametrize(
    "images",
    [
        bytes_of(5, 1, 8, 8) / 255,
        bytes_of(5, 1, 8, 8).int(),
        bytes_of(5, 8, 8),
        bytes_of(0, 1, 8, 8),
    ],
    ids=["floats", "integers", "no channels", "none"],
)
def test_only_bytes_are_scored(images):
    with pytest.raises(UsageError, match="uint8"):
        ClassifierExtractor(Projection())(images)


def test_a_classifier_of_other_images_is_refused():
    with pytest.raises(UsageError, match=r"\(1, 8, 8\), not \(3, 8, 8\)"):
        ClassifierExtractor(Projection())(bytes_of(5, 3, 8, 8))


# --- references -----------------------------------------------------------------------------


class Counting(ClassifierExtractor):
    """Counts the images it has looked at."""

    seen = 0

    def forward(self, images):
        self.seen += len(images)
        return super().forward(images)


@pytest.fixture
def images():
    return Images(bytes_of(300, 1, 8, 8), torch.arange(300) % 2, ("a", "b"), "made", "f1")


def test_a_cached_reference_equals_a_computed_one_to_the_bit(images, tmp_path):
    extractor = Counting(Projection(), batch=50)
    first = reference(images, "train", extractor, tmp_path / "a")
    seen = extractor.seen
    again = reference(images, "train", extractor, tmp_path / "a")
    assert again.features is first.features
    assert extractor.seen == seen == 300
    other = reference(images, "train", Counting(Projection(), batch=50), tmp_path / "b")
    mine, truth = other.stats, FeatureStats.of(extractor(images.pixels).features)
    for found, exact in ((first.stats, truth), (mine, truth)):
        assert torch.equal(found.total, exact.total)
        assert torch.equal(found.second, exact.second)
        assert found.count == 300
    assert torch.equal(first.features, other.features)
    assert torch.equal(first.labels, images.labels)
    assert first.hash == other.hash


def test_a_reference_of_some_images_is_their_own(images, tmp_path):
    extractor = ClassifierExtractor(Projection(), batch=50)
    few = reference(images, "train", extractor, tmp_path, count=40)
    rows = subset(300, 40)
    assert len(rows.unique()) == 40
    assert torch.equal(few.features, extractor(images.pixels[rows]).features)
    assert torch.equal(few.labels, images.labels[rows])
    assert few.title == "made/train (40 images)"
    with pytest.raises(UsageError, match="has 300 images"):
        reference(images, "train", extractor, tmp_path, count=301)


def test_every_part_of_the_identity_makes_another_reference(images):
    extractor = ClassifierExtractor(Projection())
    plain = identity_of(images, "train", extractor, None)
    others = [
        identity_of(replace(images, name="other"), "train", extractor, None),
        identity_of(replace(images, fingerprint="f2"), "train", extractor, None),
        identity_of(images, "test", extractor, None),
        identity_of(images, "train", extractor, 40),
        identity_of(images, "train", ClassifierExtractor(Projection(1)), None),
        identity_of(replace(images, pixels=bytes_of(300, 3, 8, 8)), "train", extractor, None),
        identity_of(replace(images, pixels=bytes_of(300, 1, 9, 9)), "train", extractor, None),
    ]
    assert all(other != plain for other in others)


def test_a_file_of_another_reference_is_an_error_that_names_it(images, tmp_path):
    extractor = ClassifierExtractor(Projection())
    reference(images, "train", extractor, tmp_path)
    changed = replace(images, fingerprint="f2")
    (mine,) = tmp_path.rglob("*.safetensors")
    reference(changed, "train", extractor, tmp_path)
    (theirs,) = set(tmp_path.rglob("*.safetensors")) - {mine}
    mine.write_bytes(theirs.read_bytes())
    with pytest.raises(UsageError, match="fingerprint f2, not f1") as caught:
        reference(images, "train", extractor, tmp_path)
    assert str(mine) in str(caught.value)


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        lambda data: b"",
        lambda data: b"not a file of tensors at all",
    ],
    ids=["torn", "one bit", "empty", "foreign"],
)
def test_a_damaged_reference_is_computed_again_with_a_notice(images, tmp_path, caplog, harm):
    extractor = ClassifierExtractor(Projection())
    first = reference(images, "train", extractor, tmp_path).features
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(harm(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        again = reference(images, "train", extractor, tmp_path)
    assert f"{path} is damaged" in caplog.text
    assert torch.equal(again.features, first)
    assert {file.name for file in path.parent.iterdir()} == {path.name, f".{path.name}.lock"}


def test_a_reference_that_was_altered_is_computed_again_whatever_its_checksum(images, tmp_path):
    """As somebody would write it who knows the format: fewer features, or none that are finite."""
    extractor = ClassifierExtractor(Projection(), batch=50)
    first = reference(images, "train", extractor, tmp_path).features
    (path,) = tmp_path.rglob("*.safetensors")
    for change in (lambda x: x[:9], lambda x: x[:, :3], lambda x: x * torch.nan):
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            header = {**file.metadata(), "checksum": ""}
        tensors["features"] = change(tensors["features"]).contiguous()
        header["checksum"] = sha256(described(tensors))
        path.write_bytes(save(tensors, header))
        again = reference(images, "train", extractor, tmp_path)
        assert torch.equal(again.features, first)


def test_a_reference_is_computed_by_one_of_those_that_need_it_first(images, tmp_path):
    made = []

    class Slow(ClassifierExtractor):
        def forward(self, images):
            made.append(len(images))
            time.sleep(0.05)
            return super().forward(images)

    extractor = Slow(Projection(), batch=100)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(reference, images, "train", extractor, tmp_path) for _ in range(4)]
        found = [job.result() for job in jobs]
    assert sum(made) == 300
    assert all(torch.equal(one.features, found[0].features) for one in found)


def test_features_that_float32_cannot_hold_are_kept_in_float64(images, tmp_path):
    class Exact(ClassifierExtractor):
        def forward(self, images):
            features, logits = super().forward(images)
            return features.double() / 3, logits

    extractor = Exact(Projection(), batch=50)
    found = reference(images, "train", extractor, tmp_path)
    assert torch.equal(found.features, extractor(images.pixels).features)


def test_features_of_a_reference_are_read_where_a_metric_takes_them(images, tmp_path):
    """And those of some shares of classes, too, from the sums of parts."""
    extractor = ClassifierExtractor(Projection(), batch=50)
    found = reference(images, "train", extractor, tmp_path)
    taken = found.in_shares(torch.tensor([0, 0, 0, 1]))
    parts = Features(extractor(images.pixels[:80]).features, None)
    for compared in (found, taken):
        mine = Scored.of(images.pixels[:80], [parts], images.labels[:80], keep=False)
        evaluate(["fid", "saturation"], mine, compared)
        assert "_whole" not in vars(compared.rows)
    rows = rows_in_shares(images.labels, torch.tensor([0, 0, 0, 1]))
    assert torch.equal(taken.features, found.features[rows])
    torch.testing.assert_close(taken.stats.second, FeatureStats.of(found.features[rows]).second)
    assert torch.equal(taken.pixels[torch.arange(9)], images.pixels[rows[:9]])


def test_a_cache_that_one_may_only_read_serves(images, tmp_path, monkeypatch):
    extractor = ClassifierExtractor(Projection(), batch=50)
    first = reference(images, "train", extractor, tmp_path)
    monkeypatch.setattr(cache.FileLock, "acquire", lambda *_: 1 / 0)
    assert torch.equal(reference(images, "train", extractor, tmp_path).features, first.features)
    monkeypatch.undo()
    (tmp_path / "file").write_text("in the place of a folder")
    with pytest.raises(UsageError, match=r"cannot write .*; set cache=FOLDER"):
        reference(images, "train", extractor, tmp_path / "file")


def test_an_even_draw_takes_the_same_share_of_each_class():
    labels = torch.arange(1000).remainder(7).clamp(max=4)  # the last of five classes is threefold
    rows = stratified_subset(labels, 140)
    assert labels[rows].bincount().tolist() == [20, 20, 20, 20, 60]
    assert len(rows.unique()) == 140
    assert torch.equal(stratified_subset(labels, 1000), torch.arange(1000))
    assert not torch.equal(rows, stratified_subset(labels, 140, seed=1))


def test_the_floor_scores_held_out_images_as_samples_are(images, tmp_path):
    test = replace(images, pixels=bytes_of(120, 1, 8, 8, seed=5), labels=torch.arange(120) % 2)
    extractor = ClassifierExtractor(Projection(), batch=50)
    real = reference(images, "train", extractor, tmp_path)
    row = floor(test, 60, extractor, real, list(METRICS))
    rows = stratified_subset(test.labels, 60)
    taken = test.pixels[rows]
    truth = Scored.of(taken, [extractor(taken)], test.labels[rows])
    assert {key: row[key] for key in evaluate(list(METRICS), truth, real)} == evaluate(
        list(METRICS), truth, real
    )
    assert (row["sampler"], row["n"], row["features_hash"]) == (FLOOR, 60, extractor.hash)
    streamed = Streamed(test.pixels)
    assert floor(replace(test, pixels=streamed), 60, extractor, real, list(METRICS)) == row
    assert streamed.read == 60
    with pytest.raises(UsageError, match="holds out 120 images"):
        floor(test, 121, extractor, real, ["fid"])


class Streamed:
    """Pixels that are read when asked for, and how many were."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.read = pixels, tuple(pixels.shape), 0

    def __getitem__(self, index):
        self.read += len(index)
        return self.pixels[index]


# --- tables ---------------------------------------------------------------------------------


def row(**changes):
    plain = {
        **{"checkpoint": "last.ckpt", "step": 1000, "ema": "average", "sampler": "ddim"},
        **{"settings": {}, "steps": 10, "spacing": "trailing", "nfe": 10, "guidance": "none"},
        **{"weight": 0.0, "scale": 1.0, "seed": 0, "n": 2000, "features": "classifier"},
        **{"features_hash": "abc", "reference": "mnist/train (60000 images)"},
        **{"reference_hash": "def", "fid": 1 / 3, "accuracy": 0.9, "images_per_second": 31.25},
    }
    return plain | changes


def real(**changes):
    kept = ("n", "features", "features_hash", "reference", "reference_hash")
    return {key: row()[key] for key in kept} | {"sampler": FLOOR, "fid": 0.125} | changes


def sweep(n=2000):
    rows = [
        row(n=n, sampler=sampler, steps=steps, nfe=(1 + (w > 0)) * steps, weight=w, scale=1 + w)
        | {"fid": 300 / steps / (1 + len(sampler)) + w + 100 / n, "settings": settings}
        for sampler, settings in (("ddim", {}), ("ddim", {"eta": 1.0}), ("heun", {}), ("ddpm", {}))
        for steps in (10, 50, 100)
        for w in (0.0, 1.0, 3.0)
    ]
    return [*rows, real(n=n, fid=100 / n)]


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_is_the_same_whatever_the_order_of_its_rows(tmp_path):
    rows = sweep()
    write(tmp_path / "a", rows)
    write(tmp_path / "b", rows[::-1])
    for name in ("table.csv", "table.md", "table.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    found = read(tmp_path / "a" / "table.csv")
    assert found[0]["sampler"] == FLOOR
    told = [(line["sampler"], float(line["weight"]), int(line["steps"])) for line in found[1:4]]
    assert told == [("ddim", 0, 10), ("ddim", 0, 50), ("ddim", 0, 100)]


def test_csv_keeps_every_digit_and_every_column(tmp_path):
    write(tmp_path, [row(settings={"eta": 0.5}, fid_per_class={"0": 0.1}, fresh="new"), real()])
    floor_row, mine = read(tmp_path / "table.csv")
    assert float(mine["fid"]) == 1 / 3
    assert json.loads(mine["settings"]) == {"eta": 0.5}
    assert json.loads(mine["fid_per_class"]) == {"0": 0.1}
    assert (mine["fresh"], floor_row["fresh"], floor_row["weight"]) == ("new", "", "")


def test_markdown_says_what_a_reader_must_know(tmp_path):
    rows = [row(weight=1.0, scale=2.0, fid_per_class={"0": 2.0, "10": 4.0, "9": 3.0}), real()]
    write(tmp_path, rows)
    text = (tmp_path / "table.md").read_text()
    assert "FD(classifier) of n = 2000 images" in text
    assert "±" not in text
    assert "classifier [abc]" in text
    assert "mnist/train (60000 images) [def]" in text
    assert "step 1000, ema average, guidance none, spacing trailing, seed 0" in text
    head = "| sampler | steps | NFE | w | 1 + w | FD(classifier) | / real | accuracy |"
    assert head in text
    assert "| ddim | 10 | 10 | 1 | 2 | 0.3333 | 2.67 | 0.900 |" in text
    assert "| real (test) |  |  |  |  | 0.125 | 1 |" in text
    assert "| 1 + w | 0 | 9 | 10 |" in text
    assert "| accuracy | worst class |" in text
    assert "| 0.900 | 10: 4 |" in text


def test_what_stands_behind_figures_is_told_above_the_table(tmp_path):
    near = {"first": [0.1] * 20, "second": [0.1] * 20}
    errors = {"fid_error": 0.1, "kid": 0.5, "kid_error": 0.2, "fid_influence": near}
    write(tmp_path, [row(**errors), row(**errors, sampler="heun"), real()])
    text = (tmp_path / "table.md").read_text()
    assert " FD(classifier) ± interval of 95 %, KID ± standard error. Marked: the least" in text
    assert "IS ±" not in text


def test_what_differs_between_samples_gets_a_column(tmp_path):
    write(tmp_path, [row(ema="raw"), row(ema="average", settings={"eta": 1.0}), real()])
    text = (tmp_path / "table.md").read_text()
    assert "| sampler | ema | settings |" in text
    assert "| ddim | average | eta=1.0 |" in text


@pytest.mark.parametrize(
    ("what", "values"),
    {
        "clip": ("none", "range"),
        "start": ("prior", "uniform"),
        "labels": ("balanced", [3]),
        "numeric_precision": ("32-true", "bf16-mixed"),
    }.items(),
    ids=str,
)
def test_no_two_ways_of_sampling_look_alike(what, values, tmp_path):
    """Nor are they pooled as if they were seeds of one."""
    write(tmp_path, [row(**{what: value, "seed": k}) for k, value in enumerate(values)])
    text = (tmp_path / "table.md").read_text()
    assert f"| sampler | {what} | seed |" in text
    assert "over seeds" not in text


def test_a_table_wider_than_the_terminal_comes_in_parts_with_the_same_rows(monkeypatch, capsys):
    rows = [row(steps=steps, kid=0.1, precision=0.5, recall=0.25) for steps in (5, 10)]
    monkeypatch.setenv("COLUMNS", "60")
    show([*rows, real()])
    assert len([line for line in capsys.readouterr().out.splitlines() if "FD" in line]) == 2
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    show([*rows, real()])
    _, *lines = re.sub("\x1b[^m]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 60
    heads = [line for line in lines if "sampler" in line]
    assert len(heads) == 3
    assert all(head.split()[:2] == ["sampler", "steps"] for head in heads)
    for name in ("FD(classifier)", "/ real", "KID", "precision", "recall", "images/s"):
        assert sum(f" {name} " in head for head in heads) == 1
    rows_told = [tuple(line.split()[:2]) for line in lines if "ddim" in line]
    assert rows_told == 3 * [("ddim", "5"), ("ddim", "10")]


def test_seeds_of_one_way_are_told_together(tmp_path, capsys):
    """The deviation of 1, 2 and 6 is the root of 14 / 2; one seed alone has none.

    A weight counts as it was typed: 0 as 0.0.
    """
    distances = {0: 1.0, 1: 2.0, 2: 6.0}
    rows = [row(seed=seed, fid=fid, nfe=9 + seed) for seed, fid in distances.items()]
    rows[1]["weight"] = 0
    again, alone = row(seed=2, fid=6.0, nfe=11, versions="others"), row(sampler="heun", seed=1)
    write(tmp_path, [*rows, again, alone, row(seed=3, fid=None), real()])
    table = (tmp_path / "table.md").read_text().split("The same over seeds:\n\n")[1]
    head, _, *lines = table.splitlines()
    assert head == "| sampler | steps | NFE | w | 1 + w | seeds | mean FD(classifier) | " + (
        "deviation | / real |"
    )
    assert lines == ["| ddim | 10 | 10 | 0 | 1 | 3 | 3 | 2.646 | 24 |"]
    show([*rows, real()])
    assert "2.646" in capsys.readouterr().out


def test_the_picture_draws_the_mean_of_seeds_and_their_range(tmp_path, monkeypatch):
    drawn, bars = [], []
    monkeypatch.setattr(Axes, "plot", lambda _, x, y, **__: drawn.append((list(x), list(y))))
    monkeypatch.setattr(
        Axes, "vlines", lambda _, x, low, high, **__: bars.append((list(x), list(low), list(high)))
    )
    """As the table pools them: a seed counts once, and NFE may differ between seeds."""
    several = [row(seed=seed, fid=fid, nfe=9 + seed) for seed, fid in enumerate((1.0, 2.0, 6.0))]
    again = row(seed=2, fid=6.0, nfe=11, versions="others")
    write(tmp_path, [*several, again, row(steps=20, nfe=20, fid=4.0), real()])
    assert drawn == [([10, 20], [3.0, 4.0])]
    assert bars == [([10], [1.0], [6.0])]


def test_a_distance_of_one_seed_is_drawn_with_its_interval(tmp_path, monkeypatch):
    bars = []
    monkeypatch.setattr(
        Axes, "vlines", lambda _, x, low, high, **__: bars.append((list(x), list(low), list(high)))
    )
    write(tmp_path, [row(fid=2.0, fid_error=0.5), row(steps=20, nfe=20, fid=1.0, fid_error=1.5)])
    assert bars == [([10, 20], [1.5, 0.01], [2.5, 2.5])]  # on a logarithmic axis


def test_no_two_ways_are_drawn_alike(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "plot", lambda *_, **look: drawn.append(str(sorted(look.items()))))
    write(tmp_path, [row(sampler=f"s{k}", weight=w) for k in range(20) for w in (0.0, 1.0)])
    assert len(set(drawn)) == len(drawn) == 40


def test_the_legend_tells_what_parts_the_lines_of_one_sampler(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(Figure, "legend", lambda _, handles, **__: told.extend(handles))
    ddim = [row(spacing=spacing) for spacing in ("trailing", "karras")]
    write(tmp_path, [*ddim, row(sampler="pc", spacing="linspace"), real()])
    assert [line.get_label() for line in told] == ["ddim, karras", "ddim, trailing", "pc", FLOOR]


def test_floors_scored_at_different_times_are_one_row(tmp_path):
    floors = [real(accuracy=0.99, recall=None), real(recall=0.75, accuracy=None)]
    write(tmp_path / "a", [row(), *floors])
    write(tmp_path / "b", [*floors[::-1], row()])
    lines = read(tmp_path / "a" / "table.csv")
    assert lines == read(tmp_path / "b" / "table.csv")
    told = [(line["sampler"], line["accuracy"], line["recall"]) for line in lines]
    assert told == [(FLOOR, "0.99", "0.75"), ("ddim", "0.9", "")]


def test_only_inceptions_distance_is_called_fid(tmp_path):
    write(tmp_path, [row(features="inception"), real(features="inception")])
    assert "| FID |" in (tmp_path / "table.md").read_text()


def test_rows_of_another_n_stand_in_a_table_of_their_own(tmp_path):
    write(tmp_path, [*sweep(2000), *sweep(10000)])
    text = (tmp_path / "table.md").read_text()
    assert text.index("n = 2000") < text.index("n = 10000")
    assert text.count(FLOOR) == 2


def test_a_row_without_provenance_is_refused(tmp_path):
    with pytest.raises(UsageError, match="lacks n, reference_hash"):
        write(tmp_path, [row(n=None, reference_hash=None)])
    with pytest.raises(UsageError, match="no rows"):
        write(tmp_path, [])


def test_the_picture_shows_distances_and_is_left_out_without_them(tmp_path):
    write(tmp_path / "with", sweep())
    with Image.open(tmp_path / "with" / "table.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**20) or []}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0, 0, 0)} <= colours
    write(tmp_path / "higher", [*sweep()[:-1], real(fid=2.0)])
    pictures = [(tmp_path / name / "table.png").read_bytes() for name in ("with", "higher")]
    assert pictures[0] != pictures[1], "the floor is not drawn"
    write(tmp_path / "without", [row(fid=None), real(fid=None)])
    assert {path.name for path in (tmp_path / "without").iterdir()} == {"table.csv", "table.md"}


def test_the_printed_table_holds_the_same_numbers(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    show([row(settings={"start": "[bold]"}), real()])
    text = capsys.readouterr().out
    for part in ("0.3333", "real (test)", "start=[bold]", "[abc]", "n = 2000"):
        assert part in text


def test_the_command_gathers_rows_and_names_a_folder_that_is_not_there(tmp_path):
    for k, one in enumerate((row(), real())):
        (tmp_path / "run/cells" / str(k)).mkdir(parents=True)
        (tmp_path / "run/cells" / str(k) / "result.json").write_text(json.dumps(one))
    done = worked(here(tmp_path, "table", "run", "--out", "made"))
    assert "0.3333" in done.out
    assert (tmp_path / "made/table.png").is_file()
    for words, answer in {
        ("run", "nowhere"): "no folder and no checkpoint at nowhere",
        (): "the following arguments are required: PATH",
        ("run", "--into", "x"): "unrecognized arguments: --into x",
    }.items():
        done = here(tmp_path, "table", *words)
        assert (done.status, done.line()) == (2, answer)


def test_rows_are_collected_from_cells_and_damaged_ones_left_out(tmp_path, caplog):
    for k, text in enumerate((json.dumps(row()), json.dumps(real()), '{"samp', "[]", "{}")):
        (tmp_path / "cells" / str(k)).mkdir(parents=True)
        (tmp_path / "cells" / str(k) / "result.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        rows = collect([tmp_path, tmp_path / "cells" / "0"])
    assert rows == [row(run=str(tmp_path)), real()]
    assert [record.getMessage().count("left out") for record in caplog.records] == [1, 1, 1]
    with pytest.raises(UsageError, match="no folder"):
        collect([tmp_path / "absent"])


# --- the classifier behind the features -----------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "size"), [(1, 8), (3, 33), (4, 64)], ids=["8 px", "33 px", "64 px"]
)
def test_a_classifier_takes_any_images_and_keeps_them_apart(channels, size):
    network = Classifier(channels=channels, size=size, num_classes=7, dim=24, width=4).eval()
    x = normal(3, channels, size, size).float()
    features, logits = network.features(x)
    assert (features.shape, logits.shape) == ((3, 24), (3, 7))
    alone = torch.cat([network.features(part)[0] for part in x.split(1)])
    torch.testing.assert_close(features, alone, atol=1e-5, rtol=1e-4)
    assert not any(
        isinstance(module, nn.modules.batchnorm._NormBase) for module in network.modules()
    )


def test_a_noise_conditional_classifier_hears_what_it_is_told():
    settings = {"channels": 1, "size": 8, "num_classes": 3, "width": 4, "dropout": 0.0}
    network = Classifier(**settings, noise_conditional=True)
    x = normal(2, 1, 8, 8).float()
    quiet, loud = network(x, torch.tensor([0.0, 0.0])), network(x, torch.tensor([0.0, 900.0]))
    torch.testing.assert_close(quiet[0], loud[0])
    assert (quiet[1] - loud[1]).abs().max() > 1e-3
    with pytest.raises(UsageError, match="noise level"):
        network(x)
    with pytest.raises(UsageError, match="8 pixels"):
        Classifier(**settings | {"size": 7})


def test_shifts_are_those_of_an_image_with_repeated_borders():
    image = bytes_of(1, 2, 5, 4)
    moved = shifted(image.expand(200, -1, -1, -1), 1, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(image.double(), (1, 1, 1, 1), mode="replicate").byte()
    crops = {
        padded[0, :, i : i + 5, j : j + 4].numpy().tobytes() for i in range(3) for j in range(3)
    }
    assert {one.numpy().tobytes() for one in moved} == crops
    assert len(crops) == 9


@pytest.fixture(scope="module")
def digits():
    return Digits().split("train"), Digits().split("test")


@pytest.fixture(scope="module")
def fitted(digits):
    return FeaturesClassifier().fit(*digits)


def test_the_classifier_learns_digits(fitted):
    assert fitted.accuracy >= 0.97


def test_features_of_new_digits_are_alike_to_those_of_learned_ones(fitted, digits):
    """Distances of held-out digits, and of as many learned ones, to the rest: nearly the same."""
    train, test = digits
    extractor = ClassifierExtractor(fitted.network)
    learned, new = extractor(train.pixels).features, extractor(test.pixels).features
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(learned), generator=generator)
    rank = torch.empty_like(order)
    for label, count in enumerate(test.labels.bincount().tolist()):
        mine = order[train.labels[order] == label]
        rank[mine] = (torch.arange(len(mine)) < count).long()
    rest = FeatureStats.of(learned[rank == 0])
    assert frechet(FeatureStats.of(new), rest) < 1.5 * frechet(
        FeatureStats.of(learned[rank == 1]), rest
    )


def test_the_fit_follows_its_seed_alone(digits):
    def fit(seed):
        settings = FeaturesClassifier(steps=3, width=4, seed=seed)
        return ClassifierExtractor(settings.fit(*digits).network).hash

    before = torch.get_rng_state()
    first = fit(0)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(1)
    assert fit(0) == first != fit(1)


def test_a_fitted_classifier_is_kept_and_found_again(digits, tmp_path, caplog):
    settings = FeaturesClassifier(steps=3, width=4)
    first = cached(settings, *digits, tmp_path)
    (path,) = tmp_path.rglob("*.safetensors")
    written = path.stat().st_mtime_ns
    again = cached(settings, *digits, tmp_path)
    assert path.stat().st_mtime_ns == written
    hashes = {ClassifierExtractor(found.network).hash for found in (first, again)}
    assert hashes == {ClassifierExtractor(settings.fit(*digits).network).hash}
    assert again.accuracy == first.accuracy
    cached(replace(settings, seed=1), *digits, tmp_path)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    path.write_bytes(path.read_bytes()[:-100])
    assert cached(settings, *digits, tmp_path).accuracy == first.accuracy
    assert f"{path} is damaged" in caplog.text


@pytest.mark.parametrize("count", [3, 39, 42, 80], ids=lambda n: f"{n} images")
def test_few_images_are_fitted_as_well(count, digits):
    """39 to 42 images are ten steps, of which a tenth is a first phase of no length."""
    few = digits[0].at(torch.arange(count)), digits[0].labels[:count]
    train = replace(digits[0], pixels=few[0], labels=few[1])
    assert 0 <= FeaturesClassifier(width=4).fit(train, digits[1]).accuracy <= 1


def test_jobs_that_start_together_share_one_fit(digits, tmp_path, monkeypatch):
    fits, fit = [], FeaturesClassifier.fit

    def slowly(*of):
        fits.append(of)
        time.sleep(1)  # long enough for the other to look, too
        return fit(*of)

    monkeypatch.setattr(FeaturesClassifier, "fit", slowly)
    settings, start = FeaturesClassifier(steps=3, width=4), threading.Barrier(2)

    def job(_):
        start.wait()
        return ClassifierExtractor(cached(settings, *digits, tmp_path).network).hash

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(job, range(2))
    assert one == other
    assert len(fits) == 1


def test_a_cache_that_cannot_be_written_to_is_one_line(digits, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write .*; set cache=FOLDER"):
        cached(FeaturesClassifier(steps=3, width=4), *digits, tmp_path / "file")


def test_a_set_without_labels_is_sent_to_inception(digits, tmp_path):
    bare = replace(digits[0], labels=None, classes=())
    with pytest.raises(UsageError, match="features=inception"):
        cached(FeaturesClassifier(), bare, digits[1], tmp_path)


def test_settings_are_checked_like_all_others():
    with pytest.raises(UsageError, match=r"no features.stpes; did you mean steps"):
        typed(FeaturesClassifier, "features", {"stpes": 5})
    with pytest.raises(UsageError, match=r"features.dim=many"):
        typed(FeaturesClassifier, "features", {"dim": "many"})
    with pytest.raises(UsageError, match=r"no features.wieghts; did you mean weights"):
        typed(InceptionExtractor, "features", {"wieghts": "x"})


def test_one_bad_row_does_not_hide_the_good_ones(tmp_path, caplog):
    base = dict.fromkeys(("features", "features_hash", "reference", "reference_hash"), "x")
    good = {**base, "sampler": "ddim", "n": 10, "nfe": 4.0, "fid": 1.0}
    for name, bad in {
        "a": {},
        "b": {"nfe": "x"},
        "c": {"fid": [1]},
        "d": {"authpct": "x"},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps({**good, **bad}))
    assert [found["fid"] for found in collect([tmp_path])] == [1.0]
    assert caplog.text.count("is no number") == 3
