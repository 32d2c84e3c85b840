"""Metrics against closed forms and torch-fidelity; intervals against simulated truth."""

import math
import re
import weakref
from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors
from torch_fidelity import metric_isc

from diffgen.dataset.random_choices import permutation
from diffgen.errors import UsageError
from diffgen.evaluation import neighbours
from diffgen.evaluation.features import Features
from diffgen.evaluation.frechet import (
    BLOCKS,
    FeatureStats,
    block_stats,
    blocks_of,
    distance,
    frechet,
    infinite,
)
from diffgen.evaluation.influence import Influence, best_rows, influence, quantile, told_apart
from diffgen.evaluation.kernel_distance import deviation, errors_of
from diffgen.evaluation.left_empty import LEAST, needing_more, notes
from diffgen.evaluation.metrics import (
    GROUPS,
    METRICS,
    evaluate,
    metric_names,
    needs,
)
from diffgen.evaluation.reference import Reference
from diffgen.evaluation.scored import Scored
from diffgen.evaluation.scoring import GAP, LINE, PAIRS, SIDE, save_nearest
from diffgen.evaluation.stored import InMemory


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def reference_of(features, labels=None, **more):
    identity = {"dataset": "made", "split": "train", "count": str(len(features))}
    return Reference(InMemory(features), labels, FeatureStats.of(features), identity, **more)


def scored(features, labels=None, logits=None):
    images = torch.zeros(len(features), 1, 8, 8, dtype=torch.uint8)
    return Scored.of(images, [Features(features, logits)], labels)


def test_groups_are_their_metrics_once_each():
    assert metric_names("all") == list(METRICS)
    assert metric_names(["kid", "standard", "fid", "kid"])[:3] == ["kid", "fid", "fid_test"]
    assert set(GROUPS["standard"]) < set(METRICS)
    with pytest.raises(UsageError, match="no metric standrd; did you mean standard"):
        metric_names("standrd")


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 40, 50])
def test_metrics_that_need_more_images_are_left_empty(n):
    labels, real = torch.zeros(n).long(), torch.zeros(60).long()
    held = reference_of(normal(60, 2, seed=3), pixels=noise(60, 1, side=8))
    whole = reference_of(normal(60, 2, seed=1), real, held_out=held, pixels=noise(60, 2, side=8))
    found = evaluate("all", scored(normal(n, 2), labels, normal(n, 3)), whole)
    assert {name for name in METRICS if found[name] is None} == set(
        needing_more(METRICS, n, whole)
    )
    told = "".join(notes(names=list(METRICS), labels=labels, n=n, dim=2, reference=whole, held=60))
    assert ("no more than the 2 features" in told) == (n <= 2)
    assert set(re.findall(r"(\w+) \(needs \d+ images or more\)", told)) == {
        name for name, least in LEAST.items() if least > n
    }
    values = [value for value in found.values() if isinstance(value, float)]
    assert all(map(math.isfinite, values))


# --- Fréchet ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [500, 70, 20], ids=lambda n: f"n={n}")
def test_the_distance_of_statistics_is_that_of_features(count):
    mine, theirs = normal(count, 64) + 1, 2 * normal(900, 64, seed=1)
    found = distance(FeatureStats.of(mine), FeatureStats.of(theirs))
    assert found == pytest.approx(
        frechet(FeatureStats.of(mine), FeatureStats.of(theirs)), rel=1e-6
    )


def test_statistics_add_up():
    mine = normal(40, 5)
    parts = block_stats(mine, blocks_of(40))
    whole, sum_of = FeatureStats.of(mine), reduce(add, parts)
    torch.testing.assert_close(sum_of.covariance, torch.cov(mine.T))
    without = sum_of - parts[3]
    torch.testing.assert_close(without.mean, mine[blocks_of(40) != 3].mean(0))
    assert (sum_of.count, without.count) == (whole.count, 36)


def test_blocks_are_alike_in_number_and_classes():
    labels = torch.arange(200) % 20  # by turns, a block of every tenth would hold two classes
    for block in range(BLOCKS):
        found = labels[blocks_of(200, labels) == block]
        assert len(found) == 20
        assert found.unique().numel() == 20


def test_the_held_out_distance_is_to_the_held_out_images():
    mine, held = normal(60, 3), normal(80, 3, seed=2) + 1
    real = reference_of(normal(90, 3, seed=1), held_out=reference_of(held))
    found = evaluate(["fid", "fid_test"], scored(mine), real)
    assert found["fid_test"] == pytest.approx(
        frechet(FeatureStats.of(mine), FeatureStats.of(held))
    )
    assert found["fid_test"] > 5 * found["fid"]
    assert evaluate(["fid_test"], scored(mine), reference_of(held)) == {"fid_test": None}


# --- chance -----------------------------------------------------------------------------------


@pytest.mark.parametrize("freedom", [19, 40, 99])
def test_the_quantile_is_students(freedom):
    assert quantile(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), abs=5e-4)


def test_the_jackknife_of_a_mean_is_the_textbook_error():
    x = normal(10, 1).flatten()
    without = [float((x.sum() - value) / 9) for value in x]
    assert deviation(without) == pytest.approx(float(x.std() / 10**0.5), rel=1e-9)


@pytest.mark.parametrize("dim", [5, 40], ids=["full rank", "fewer images than features"])
def test_what_images_move_a_distance_by_is_found_without_taking_them_out(dim):
    """Against the distances of sets without one image and without two."""
    x, reference = 1.3 * normal(30, dim) + 0.2, FeatureStats.of(normal(900, dim, seed=1))
    labels, whole = torch.arange(30) % 3, FeatureStats.of(x)
    found = influence(x, labels, whole, reference)

    def less(*out):
        return distance(FeatureStats.of(x[[k for k in range(30) if k not in out]]), reference)

    pairs = [(k + 6 * j, k + 3 + 6 * j) for k in range(3) for j in range(5)]
    ones = [29 * (less(j) - less(i)) / 2**0.5 / (15 * 30) ** 0.5 for i, j in pairs]
    assert found.first == pytest.approx(ones, rel=1e-3, abs=1e-6)
    pairs = [pairs[k] for k in permutation(15, 0)]
    twos = [0.0] * 15
    for k in range(60):
        (i, j), (m, n) = pairs[k % 15], pairs[(k % 15) - 1 - k // 15]
        twos[k % 15] += 29 * 28 * (less(i, m) - less(j, m) - less(i, n) + less(j, n)) / 2
    twos = [each / (2 * 60) ** 0.5 / 30 for each in twos]
    assert found.second == pytest.approx(twos, rel=1e-3, abs=1e-5)


LAWS = {  # how far the images' law is from the reference's: a perfect model, two with errors
    "perfect": (1.0, 0.0),
    "near": (1.05, 0.05),
    "far": (1.2, 0.2),
}


@pytest.mark.parametrize("law", LAWS)
def test_intervals_hold_the_mean_distance_in_95_of_100_sets(law):
    """The mean over sets of as many images: the distance itself is too large by about 1 / n.

    Of many images, of few for their features, and of few in each of many classes.
    """
    (wide, shift), held = LAWS[law], []
    for dim, count, classes in ((8, 1000, 1), (16, 100, 1), (16, 300, 100)):
        spectrum, labels = torch.arange(1, dim + 1).double() ** -0.5, torch.arange(4000) % classes
        centres = 2 * normal(classes, dim, seed=999) * spectrum * (classes > 1)
        reference = FeatureStats.of(normal(4000, dim) * spectrum + centres[labels])
        found, error, labels = [], [], labels[:count]
        for seed in range(100):
            mine = (wide * normal(count, dim, seed=seed + 1) + shift) * spectrum + centres[labels]
            stats = FeatureStats.of(mine)
            found.append(distance(stats, reference))
            error.append(influence(mine, labels, stats, reference).error(found[-1]))
        held.append(np.mean(np.abs(found - np.mean(found)) <= error))
    assert min(held) >= 0.88, held
    assert 0.92 <= np.mean(held) <= 0.98, held


def test_the_interval_of_many_images_is_found_from_some_of_them():
    mine, reference = normal(8000, 6) * 1.1, FeatureStats.of(normal(4000, 6, seed=1))
    stats = FeatureStats.of(mine)
    whole = influence(mine, None, stats, reference)
    some = influence(mine[:2000], None, stats, reference)
    assert some.deviation == pytest.approx(whole.deviation, rel=0.2)


def test_what_all_blocks_share_by_class_is_no_chance():
    """Two classes far apart, in the same shares each time: chance is within them alone."""
    labels = torch.arange(400) % 2
    mine = normal(400, 3) + 10 * labels[:, None]
    stats, reference = FeatureStats.of(mine), FeatureStats.of(normal(900, 3, seed=1))
    known = influence(mine, labels, stats, reference).deviation
    assert known < 0.5 * influence(mine, None, stats, reference).deviation


@pytest.mark.parametrize("classes", [10, 70], ids=lambda k: f"{k} classes")
def test_few_images_of_many_classes_have_intervals_as_wide_as_chance(classes):
    """Blocks cannot hold the classes alike here: three images a block, or three a class."""
    centres = 3 * normal(classes, 8, seed=999)
    of_reference, labels = torch.arange(7000) % classes, torch.arange(213) % classes
    reference = FeatureStats.of(normal(7000, 8) + centres[of_reference])
    found, deviations = [], []
    for seed in range(100):
        mine = 1.1 * normal(213, 8, seed=seed + 1) + centres[labels]
        stats = FeatureStats.of(mine)
        found.append(distance(stats, reference))
        deviations.append(influence(mine, labels, stats, reference).deviation)
    assert np.mean(deviations) == pytest.approx(np.std(found, ddof=1), rel=0.3)


def test_images_that_are_all_alike_have_a_distance_without_chance():
    same, reference = torch.ones(30, 4).double(), FeatureStats.of(normal(900, 4))
    found = influence(same, None, FeatureStats.of(same), reference)
    assert found.deviation == 0
    assert found.error(2.0) == 0


def rows_of(*sets, reference):
    rows = []
    for features in sets:
        stats = FeatureStats.of(features)
        moved = influence(features, None, stats, reference).plain()
        rows.append({"fid": distance(stats, reference), "fid_influence": moved})
    return rows


def test_rows_of_the_same_seeds_are_told_apart_in_pairs():
    """The second set is the first, a little wider: less than chance, but in every image."""
    reference, mine = FeatureStats.of(normal(4000, 4)), 1.2 * normal(500, 4, seed=1)
    a, b, c = rows_of(mine, 1.02 * mine, 1.2 * normal(500, 4, seed=2), reference=reference)
    assert 0 < b["fid"] - a["fid"] < Influence.of(a).half_width
    assert told_apart(b["fid"] - a["fid"], Influence.of(b) - Influence.of(a))
    assert not told_apart(c["fid"] - a["fid"], Influence.of(c) - Influence.of(a))
    assert best_rows([a, b]) == [a]
    assert best_rows([a, c]) == [a, c]
    assert best_rows([a]) == best_rows([a, {"sampler": "earlier", "fid": 0.1}]) == []


@pytest.mark.parametrize("law", LAWS)
def test_rows_of_one_law_are_told_apart_in_5_of_100_pairs(law):
    """Half of the noise is the same in both rows, as that of two samplers of one model."""
    spectrum, (wide, shift) = torch.arange(1, 17).double() ** -0.5, LAWS[law]
    reference, apart = FeatureStats.of(normal(4000, 16) * spectrum), 0
    for seed in range(200):
        one, other, both = normal(3, 500, 16, seed=seed + 1)
        sets = ((wide * (x + both) / 2**0.5 + shift) * spectrum for x in (one, other))
        a, b = rows_of(*sets, reference=reference)
        apart += told_apart(b["fid"] - a["fid"], Influence.of(b) - Influence.of(a))
    assert 4 <= apart <= 16


@pytest.mark.parametrize(
    "found",
    [
        None,
        [1.0, 2.0],
        {"first": [0.1] * 20},
        {"first": [0.1] * 20, "second": [0.1]},
        {"first": [0.1] * 20, "second": ["a"] * 20},
    ],
)
def test_a_row_whose_figures_cannot_tell_marks_no_best(found):
    good = {"first": [0.1] * 20, "second": [0.1] * 20}
    assert best_rows([{"fid": 1, "fid_influence": x} for x in (good, good)])
    assert not best_rows([{"fid": 1, "fid_influence": x} for x in (good, found)])


def test_the_distance_of_two_halves_extrapolates_to_nothing():
    found = []
    for seed in range(20):
        halves = normal(2, 600, 8, seed=seed)
        parts = [block_stats(half, blocks_of(600)) for half in halves]
        found.append(infinite(*parts))
        assert distance(reduce(add, parts[0]), FeatureStats.of(halves[1])) > 0.03
    mean, error = np.mean(found), np.std(found) / 20**0.5
    assert abs(mean) < 3 * error < 0.02


def test_the_extrapolated_distance_of_independent_gaussians_is_the_textbook_sum():
    wide = torch.tensor([1.0, 2.0, 3.0])
    parts = [block_stats(normal(4000, 3, seed=1) * wide, blocks_of(4000))]
    parts.append(block_stats(normal(4000, 3, seed=2) + 1, blocks_of(4000)))
    assert infinite(*parts) == pytest.approx(3 + 0 + 1 + 4, rel=0.05)


def test_the_extrapolated_distance_agrees_with_plain_numpy():
    mine, real = 1.2 * normal(300, 4).numpy() + 0.1, normal(500, 4, seed=1).numpy()

    def fd(x, y):
        a, b = np.cov(x.T), np.cov(y.T)
        cross = scipy.linalg.sqrtm(a @ b).real
        return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * cross)

    x, y = (1, 2, 5), []
    for parts in x:
        at = np.arange(500) % 10 // (10 // parts)  # the images of each part
        of_parts = [fd(mine[at[:300] == k], real[at == k]) for k in range(parts)]
        y.append(np.mean(of_parts))
    truth = np.polyfit(x, y, 1)[1]
    found = evaluate(
        ["fid_infinity"], scored(torch.tensor(mine)), reference_of(torch.tensor(real))
    )
    assert found["fid_infinity"] == pytest.approx(truth, rel=1e-9)
    assert 0 < truth < y[0]


# --- kernel distance --------------------------------------------------------------------------


def test_the_kernel_distance_of_equal_laws_is_within_its_error():
    off = []
    for seed in range(20):
        mine, theirs = normal(2, 100, 4, seed=seed)
        kid = evaluate(["kid"], scored(mine), reference_of(theirs))
        assert kid["kid_error"] == pytest.approx(math.hypot(*errors_of(mine, theirs)))
        off.append(kid["kid"] / kid["kid_error"])
    assert 0.6 < float(np.std(off)) < 1.4
    assert np.mean(np.abs(off) < 2.26) > 0.85  # Student's quantile, 9 degrees of freedom


def test_the_error_without_a_block_is_that_of_the_images_that_are_left():
    """Against the distance computed anew from the images, with plain loops."""
    mine, theirs = normal(30, 3), normal(30, 3, seed=1) + 0.5

    def kernel_distance(x, y):
        kernel = [(a @ b.T / 3 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
        off = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in kernel[:2]]
        return float(sum(off) - 2 * kernel[2].mean())

    kept = [blocks_of(30) != block for block in range(BLOCKS)]
    ours = deviation([kernel_distance(mine[rows], theirs) for rows in kept])
    other = deviation([kernel_distance(mine, theirs[rows]) for rows in kept])
    assert errors_of(mine, theirs) == pytest.approx((ours, other), rel=1e-9)


@pytest.mark.parametrize(("shift", "widest"), [(0.0, 1.9), (0.5, 1.4)])
def test_the_kernel_distances_error_is_what_other_samples_give(shift, widest):
    """Against a reference many times as large; of equal laws it is up to sqrt(2) too wide."""
    reference = reference_of(normal(1000, 8))
    found = [
        evaluate(["kid"], scored(normal(80, 8, seed=seed) + shift), reference)
        for seed in range(1, 26)
    ]
    spread = np.std([row["kid"] for row in found])
    assert 0.75 * spread < np.mean([row["kid_error"] for row in found]) < widest * spread


# --- neighbours, projections, classes ---------------------------------------------------------


def test_density_and_coverage_of_points_on_a_line():
    """With k = 1 the balls of 0, 1, 3, 6 reach 1, 1, 2, 3: (-1, 1), (0, 2), (1, 5), (3, 9)."""
    real = torch.tensor([[0.0], [1.0], [3.0], [6.0]]).double()
    mine = torch.tensor([[0.5], [4.0], [20.0]]).double()
    assert neighbours.density_and_coverage(mine, real, k=1) == ((2 + 2) / 3, 1.0)
    assert neighbours.density_and_coverage(mine[:1], real, k=1) == (2.0, 0.5)


@pytest.mark.parametrize("at_once", [2**24, 1000], ids=["one block", "many blocks"])
def test_density_and_coverage_agree_with_plain_numpy(at_once, monkeypatch):
    monkeypatch.setattr(neighbours, "NUMBERS_AT_ONCE", at_once)
    mine, real = 0.8 * normal(120, 5) + 0.3, normal(230, 5, seed=1)
    near = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(real)
    reach = near.kneighbors(real)[0][:, 5]
    inside = np.linalg.norm(mine[:, None].numpy() - real[None].numpy(), axis=-1) < reach
    truth = inside.sum() / (5 * 120), inside.any(0).mean()
    assert neighbours.density_and_coverage(mine, real) == pytest.approx(truth, rel=1e-12)
    assert 0.3 < truth[1] < truth[0]


def test_real_images_have_density_about_1():
    mine, real = normal(600, 3), normal(600, 3, seed=1)
    found = evaluate(["density", "coverage"], scored(mine), reference_of(real))
    assert found["density"] == pytest.approx(1, abs=0.1)
    assert found["coverage"] == pytest.approx(1 - 0.5**5, abs=0.03)  # Naeem et al., equation 8


def test_mind_of_shifted_sets_is_three_times_the_square_of_the_shift():
    """A shift s projects to s cos: its square has the mean |s|^2 / d over directions."""
    mine = normal(50, 6)
    found = evaluate(["mind"], scored(mine + 2), reference_of(mine))
    assert found["mind"] == pytest.approx(3 * 4 * 6, rel=0.1)


def test_mind_agrees_with_plain_numpy():
    """The directions are those of one seed, fifty at a time."""
    mine, real = normal(40, 5) + 0.3, 2 * normal(40, 5, seed=1)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(5, 50, generator=generator, dtype=torch.float64) for _ in range(20)]
    directions = np.concatenate([part.numpy() for part in drawn], 1)
    apart = [np.sort(x.numpy() @ directions, 0) for x in (mine, real)]
    apart = ((apart[0] - apart[1]) / np.linalg.norm(directions, axis=0)) ** 2
    found = evaluate(["mind"], scored(mine), reference_of(real))["mind"]
    assert found == pytest.approx(3 * 5 * apart.mean(), rel=1e-9)


def test_the_inception_score_is_torch_fidelitys_and_has_a_closed_form():
    logits = normal(300, 7)
    found = evaluate(["is"], scored(normal(300, 2), None, logits), reference_of(normal(9, 2)))
    theirs = metric_isc.isc_features_to_metric(logits)
    assert found["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    sure = 1000 * torch.eye(5).double().repeat(40, 1)  # each image of one class of five
    found = evaluate(["is"], scored(normal(200, 2), None, sure), reference_of(normal(9, 2)))
    assert found["is"] == pytest.approx(5, rel=0.1)
    assert evaluate(["is"], scored(normal(9, 2)), reference_of(normal(9, 2)))["is"] is None


def test_classes_of_another_data_set_give_no_accuracy():
    logits, labels = torch.eye(4).double(), torch.arange(4)
    pixels = torch.zeros(4, 1, 8, 8)
    mine = Scored.of(pixels, [Features(normal(4, 2), logits)], labels, False)
    assert evaluate(["accuracy"], mine, reference_of(normal(9, 2))) == {"accuracy": None}


# --- memorisation -----------------------------------------------------------------------------


def test_points_on_a_line_are_authentic_where_they_are_far():
    """Of 0, 1, 10 the nearest others are 1, 1, 9 away: 0.4 and 8 are copies, 2.5 is none."""
    training = torch.tensor([[0.0], [1.0], [10.0]]).double()
    mine = scored(torch.tensor([[0.4], [2.5], [8.0]]).double())
    found = evaluate(["authpct"], mine, reference_of(training))
    assert found["authpct"] == pytest.approx(100 / 3)


def test_c_t_is_the_z_score_of_mann_and_whitney():
    mine, held, training = normal(70, 3), normal(90, 3, seed=1), normal(200, 3, seed=2)
    apart = [NearestNeighbors(n_neighbors=1).fit(training).kneighbors(x)[0] for x in (mine, held)]
    theirs = scipy.stats.mannwhitneyu(
        *(x.ravel() for x in apart), method="asymptotic", use_continuity=False
    )
    real = reference_of(training, held_out=reference_of(held))
    found = evaluate(["c_t"], scored(mine), real)
    assert 1 - found["nearer"] == pytest.approx(theirs.statistic / (70 * 90), rel=1e-9)
    assert 2 * scipy.stats.norm.sf(abs(found["c_t"])) == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (found["c_t"] > 0) == (found["nearer"] < 0.5)


def test_planted_copies_are_found():
    training, held = normal(1000, 6), reference_of(normal(300, 6, seed=1))
    real = reference_of(training, held_out=held)
    new = scored(normal(200, 6, seed=2))
    planted = training[:60] + 0.02 * normal(60, 6, seed=3)
    copies = scored(torch.cat((planted, new.features[60:])))
    found = {name: evaluate(["authpct", "c_t"], x, real) for name, x in
             {"new": new, "copies": copies, "all": scored(training[:200])}.items()}  # fmt: skip
    assert found["new"]["nearer"] == pytest.approx(0.5, abs=0.08)
    assert abs(found["new"]["c_t"]) < 3
    assert found["copies"]["c_t"] < -3
    assert found["copies"]["authpct"] < found["new"]["authpct"] - 10
    assert found["all"]["authpct"] == 0
    assert found["all"]["nearer"] == 1


def noise(n, seed, side=6, channels=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, channels, side, side), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("at_once", [2**24, 2000], ids=["one part", "many parts"])
def test_the_nearest_image_is_that_of_plain_numpy(at_once, monkeypatch):
    monkeypatch.setattr(neighbours, "NUMBERS_AT_ONCE", at_once)
    mine, theirs = noise(90, 0, channels=3), noise(130, 1, channels=3)
    x, y = (part.flatten(1).numpy() / 255 for part in (mine, theirs))
    truth = np.sqrt(((x[:, None] - y) ** 2).mean(-1))
    apart, number = neighbours.nearest_images(mine, theirs)
    np.testing.assert_allclose(apart, truth.min(1), rtol=1e-12)
    assert number.tolist() == truth.argmin(1).tolist()
    truth = np.sqrt(((y[:, None] - y) ** 2).mean(-1)) + np.diag([np.inf] * 130)
    apart, number = neighbours.nearest_images(theirs, theirs, but=torch.arange(130))
    np.testing.assert_allclose(apart, truth.min(1), rtol=1e-12)
    assert number.tolist() == truth.argmin(1).tolist()
    assert neighbours.nearest_images(theirs, theirs)[0].max() == 0


def images_of(pixels):
    """A reference of images alone: metrics in pixels need no features."""
    return replace(reference_of(torch.zeros(len(pixels), 1).double()), pixels=pixels)


def test_planted_images_are_found_in_pixels(tmp_path):
    training, new = noise(300, 0), noise(100, 2)
    real = replace(images_of(training), held_out=images_of(noise(150, 1)))
    planted = torch.cat((training[:40].clone(), new[40:]))
    planted[:40, :, 0, 0] ^= 1
    rows = []
    for mine in (new, planted):
        parts = [Features(torch.zeros(100, 1).double(), None)]
        x = Scored.of(mine, parts, None, keep=False)
        rows.append(evaluate(["authpct_pixels", "c_t_pixels"], x, real))
    assert rows[0]["nearer_pixels"] == pytest.approx(0.5, abs=0.1)
    assert rows[1]["authpct_pixels"] == pytest.approx(rows[0]["authpct_pixels"] - 40, abs=20)
    assert rows[1]["c_t_pixels"] < -3
    save_nearest(tmp_path / "nearest.png", x, real)
    with Image.open(tmp_path / "nearest.png") as picture:
        shown = np.asarray(picture.convert("L"))
    tiles = [(GAP + k * (SIDE + GAP), GAP + LINE) for k in range(PAIRS)]
    for left, top in tiles:  # each sample above the image that it was copied from
        above, below = (shown[t : t + SIDE, left : left + SIDE] for t in (top, top + SIDE + GAP))
        assert (above != below).mean() == 1 / 36
    assert (
        len({shown[top : top + SIDE, left : left + SIDE].tobytes() for left, top in tiles}) == 10
    )


def test_statistics_alone_tell_of_no_copies(tmp_path):
    real = reference_of(normal(0, 2))
    found = evaluate(["authpct", "c_t_pixels"], scored(normal(30, 2)), real)
    assert set(found.values()) == {None}


# --- memory -----------------------------------------------------------------------------------


class Parts:
    """Features that come in parts, and the most of them that anybody still holds at a time."""

    def __init__(self, features, size):
        self.features, self.size, self.alive, self.most = features, size, [], 0

    def __iter__(self):
        for rows in torch.arange(len(self.features)).split(self.size):
            part = self.features[rows].clone()
            self.alive.append(weakref.ref(part))
            logits = part[:, :3].clone()
            yield Features(part, logits)
            del part, logits
            self.most = max(self.most, sum(each() is not None for each in self.alive))


@pytest.mark.parametrize("size", [1, 64, 1000, 3000])
def test_sums_are_the_same_in_parts_of_any_size(size):
    mine, pixels = normal(3000, 8) + 3, torch.zeros(3000, 1, 2, 2, dtype=torch.uint8)
    real = reference_of(normal(2000, 8, seed=1), held_out=reference_of(normal(900, 8, seed=2)))
    truth = evaluate(["fid", "fid_test", "is"], scored(mine, None, mine[:, :3]), real)
    parts = Parts(mine, size)
    of_sums = Scored.of(pixels, parts, None, keep=False)
    found = evaluate(["fid", "fid_test", "is"], of_sums, real)
    for name in ("fid", "fid_error", "fid_test", "is"):
        assert found[name] == pytest.approx(truth[name], rel=1e-9)
    assert parts.most <= 2
    with pytest.raises(ValueError, match="were not kept"):
        evaluate(["kid"], of_sums, real)


def test_features_are_kept_where_a_metric_needs_them():
    """Each metric alone gets what it needs, and no more."""
    labels, real_labels = torch.arange(60) % 3, torch.arange(90) % 3
    held = reference_of(normal(60, 4, seed=3), pixels=noise(60, 1))
    real = reference_of(normal(90, 4, seed=1), real_labels, held_out=held, pixels=noise(90, 2))
    pixels, parts = noise(60, 3), [Features(normal(60, 4), normal(60, 3))]
    for name in METRICS:
        evaluate([name], Scored.of(pixels, parts, labels, **needs([name])), real)
    assert needs(["fid", "fid_test", "saturation"]) == {"keep": False, "logits": False}
    assert needs(["fid", "accuracy"]) == {"keep": False, "logits": True}
    assert needs(["fid", "kid"]) == {"keep": True, "logits": False}
