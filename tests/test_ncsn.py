"""NCSN's techniques 1 and 2 against published figures, and what measuring makes of a recipe."""

import math
from dataclasses import replace

import pytest
import torch
from running import tree

from diffgen.commands import data_dependent as resolve
from diffgen.commands.data_dependent import range_of, resolved
from diffgen.config.build import build
from diffgen.config.recipe import ModelSettings, recipe_of
from diffgen.config.schema import Train
from diffgen.dataset import diameter
from diffgen.dataset.diameter import widest
from diffgen.dataset.digits import Digits
from diffgen.dataset.images import Images, in_memory
from diffgen.dataset.pixels import RANGES
from diffgen.errors import UsageError
from diffgen.sampler.heun import Heun
from diffgen.sampling.plan import plan_of, times_of
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.ncsnv2 import NCSNv2, levels_between, levels_of, overlap, ratio_of

# sigma_max, numbers in an image, L before rounding at C = 0.5 and at C = 0.567, L as published
PUBLISHED = {
    "cifar10": (50, 3072, 219.25, 232.01, 232),
    "celeba": (90, 12288, 472.22, 500.04, 500),
    "church": (140, 27648, 744.53, 788.56, 788),
    "bedroom": (190, 49152, 1025.73, 1086.52, 1086),
    "ffhq": (348, 196608, 2181.60, 2311.25, 2311),
}


@pytest.mark.parametrize(("top", "size", "half", "more", "_"), PUBLISHED.values(), ids=PUBLISHED)
def test_technique_2_before_rounding(top, size, half, more, _):
    assert levels_between(top, 0.01, ratio_of(0.5, size)) == pytest.approx(half, abs=0.006)
    assert levels_between(top, 0.01, ratio_of(0.567, size)) == pytest.approx(more, abs=0.006)


@pytest.mark.parametrize(("top", "size", "_", "__", "levels"), PUBLISHED.values(), ids=PUBLISHED)
def test_the_published_ladders_overlap_by_0_566_to_0_567(top, size, _, __, levels):
    ratio = Geometric(sigma_max=top, sigma_min=0.01, levels=levels).ratio
    assert overlap(ratio, size) == pytest.approx(0.5666, abs=5e-4)


def test_mnists_levels():
    """From its 16.8758: 95 levels as the paper's text has it, 101 as its ladders do."""
    assert levels_of(16.8758, 0.01, 0.5, 784) == 95
    assert levels_of(16.8758, 0.01, 0.567, 784) == 101
    assert levels_between(20, 0.01, ratio_of(0.5, 784)) == pytest.approx(97.5, abs=0.05)


def test_the_overlap_is_what_two_levels_share():
    """Proposition 2's shells, drawn: how much of a level lies in three deviations of the next."""
    size, ratio = 3072, 1.03
    noise = torch.randn(4000, size, generator=torch.Generator().manual_seed(0))
    radius = noise.norm(dim=1)
    middle, reach = ratio * math.sqrt(size), 3 * ratio / math.sqrt(2)
    share = ((radius - middle).abs() < reach).double().mean().item()
    assert overlap(ratio, size) == pytest.approx(share, abs=0.02)
    assert overlap(1.0, size) == pytest.approx(0.9973, abs=1e-4)
    assert overlap(1.668, size) < 1e-100  # NCSN's first ladder, whose levels never meet


@pytest.mark.parametrize("size", [5, 64, 196608])
@pytest.mark.parametrize("C", [0.01, 0.5, 0.99])
def test_the_ratio_has_the_overlap_asked_for(C, size):
    assert overlap(ratio_of(C, size), size) == pytest.approx(C, abs=1e-6)


@pytest.mark.parametrize(("C", "size"), [(0.9974, 784), (0.0, 784), (0.5, 4)])
def test_an_overlap_that_cannot_be(C, size):
    with pytest.raises(UsageError, match=r"schedule\.C.* between"):
        ratio_of(C, size)


def test_a_ladder_upside_down():
    with pytest.raises(UsageError, match="0 < schedule"):
        levels_of(0.01, 0.02, 0.5, 784)


def test_the_schedule_is_the_geometric_ladder():
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    mine, ladder = (
        NCSNv2(sigma_max=16.8758, levels=95),
        Geometric(sigma_max=16.8758, sigma_min=0.01, levels=95),
    )
    assert torch.equal(mine.sigma(t), ladder.sigma(t))
    assert torch.equal(mine.alpha(t), ladder.alpha(t))
    assert (mine.t_min, mine.levels) == (1 / 95, 95)


def cloud(kind: str) -> torch.Tensor:
    """400 images (400, 1, 4, 4) of bytes: even, mostly dark, mostly bright, or some of each."""
    generator = torch.Generator().manual_seed(3)
    grey = torch.rand(400, 16, generator=generator)
    power = {"even": 1.0, "dark": 6.0, "bright": 0.1}
    each = torch.tensor([power.get(kind, p) for p in (1.0, 6.0, 0.1, 3.0) * 100])[:, None]
    return (grey**each * 255).byte().reshape(400, 1, 4, 4)


@pytest.mark.parametrize("kind", ["even", "dark", "bright", "mixed"])
@pytest.mark.parametrize(("block", "start"), [(1024, None), (16, None), (16, 0.0), (64, 0.0)])
def test_technique_1_finds_the_widest_pair(kind, block, start, monkeypatch):
    """In blocks of any size, from a good first guess and from none."""
    monkeypatch.setattr(diameter, "BLOCK", block)
    if start is not None:
        monkeypatch.setattr(diameter, "_by_hops", lambda rows: start)
    pixels = cloud(kind)
    found = widest(in_memory(pixels, None, (), kind))
    assert found.value == pytest.approx(torch.pdist(pixels.flatten(1).double() / 255).max().item())
    assert (found.images, found.total, found.exact) == (400, 400, True)


@pytest.mark.parametrize("ground", [0, 255], ids=["black", "white"])
def test_technique_1_keeps_what_could_be_wider(ground, monkeypatch):
    """Two images that reach the bound exactly, among many that are near it by none."""
    monkeypatch.setattr(diameter, "_by_hops", lambda rows: 8.0)
    pixels = torch.full((50, 1, 4, 4), ground, dtype=torch.uint8)
    pixels.view(50, 16)[7, :8] = pixels.view(50, 16)[31, 8:15] = 255 - ground
    assert widest(in_memory(pixels, None, (), "two")).value == pytest.approx(math.sqrt(15))


def test_technique_1_leaves_out_most_pairs(monkeypatch):
    """On sparse images, as digits are, nearly all pairs cannot be the widest."""
    seen = []
    apart = diameter._squared_distances
    monkeypatch.setattr(diameter, "BLOCK", 64)
    monkeypatch.setattr(diameter, "_by_hops", lambda rows: 3.9)
    monkeypatch.setattr(
        diameter, "_squared_distances", lambda a, b: (seen.append(len(a) * len(b)), apart(a, b))[1]
    )
    pixels = torch.zeros(640, 1, 4, 4, dtype=torch.uint8)
    pixels[torch.arange(640), 0, torch.arange(640) % 4, torch.arange(640) % 3] = 255
    pixels[0, 0], pixels[1, 0, 0], pixels[1, 0, 1:] = 255, 255, 0
    assert widest(in_memory(pixels, None, (), "sparse")).value == pytest.approx(math.sqrt(15))
    assert sum(seen) < 640**2 / 5


def test_a_search_that_grows_too_long_ends_and_says_so(monkeypatch):
    monkeypatch.setattr(diameter, "WORK", 0)
    monkeypatch.setattr(diameter, "HOPS", 1)
    pixels = cloud("even")
    found = widest(in_memory(pixels, None, (), "even"))
    assert not found.exact
    assert 0 < found.value <= torch.pdist(pixels.flatten(1).double() / 255).max().item() + 1e-6


def test_a_streaming_set_is_measured_in_part(monkeypatch):
    monkeypatch.setattr(diameter, "BYTES", 16 * 50)
    pixels = cloud("even")
    stream = type(
        "Stream", (), {"shape": tuple(pixels.shape), "__getitem__": lambda s, i: pixels[i]}
    )()
    found = widest(Images(stream, None, (), "stream", "s"))
    assert (found.images, found.total) == (50, 400)
    assert found == widest(Images(stream, None, (), "stream", "s"))


def test_the_digits_lie_4_81_apart():
    assert widest(Digits().split("train")).value == pytest.approx(4.81, abs=0.005)


def wanting(cache, **changes) -> Train:
    """Settings whose ladder waits for the digits, some of their parts changed."""
    words = ("dataset=digits", "model=ncsnv2", "network=refinenet", "network.width=4")
    found = tree("train", "recipe=none", *words, f"cache={cache}")
    return found.replaced(**{key: {**found.plain[key], **part} for key, part in changes.items()})


def test_measured_settings_become_numbers_that_need_no_data(tmp_path):
    found = resolved(wanting(tmp_path))
    schedule = wanting(tmp_path).plain["schedule"]
    assert found.plain["schedule"] == {**schedule, "sigma_max": 4.81372, "levels": 21}
    assert not found.recipe.unmeasured()
    top = build("schedule", found.plain["schedule"]).sigma(torch.tensor(1.0)).item()
    assert top == pytest.approx(4.81372, rel=1e-12)
    assert resolved(found) is found
    found.recipe.denoiser((1, 8, 8), 0)


@pytest.mark.parametrize(("name", "factor"), [("unit", 1.0), ("symmetric", 2.0)])
def test_distances_are_those_of_the_models_range(tmp_path, name, factor):
    found = resolved(wanting(tmp_path, model={"range": name}))
    assert found.plain["schedule"]["sigma_max"] == pytest.approx(factor * 4.813716, rel=1e-5)


def test_standardised_images_are_measured_in_deviations(tmp_path):
    images = Digits().split("train")
    of = range_of("standardised", images)
    seen = of.to_model(images.pixels)
    assert seen.mean().item() == pytest.approx(0, abs=1e-5)
    assert seen.std().item() == pytest.approx(1, rel=1e-4)
    found = resolved(wanting(tmp_path, model={"range": "standardised"}), images)
    widest = torch.cdist(seen.flatten(1), seen.flatten(1)).max().item()
    assert found.plain["schedule"]["sigma_max"] == pytest.approx(widest, rel=1e-5)


def test_standardising_counts_every_image_in_memory(monkeypatch):
    """Closed form: a share p of white pixels has mean p and deviation sqrt(p (1 - p))."""
    monkeypatch.setattr("diffgen.commands.data_dependent.MOST", 10)
    pixels = torch.zeros(1000, 1, 2, 2, dtype=torch.uint8)
    pixels[::9] = 255  # 112 of 1000, and 2 of any 10 that lie evenly
    of, p = range_of("standardised", in_memory(pixels, None, (), "bars")), 0.112
    assert (of.shift, of.scale) == pytest.approx((p, math.sqrt(p * (1 - p))))


def test_standardising_reads_some_of_the_images_on_disk(monkeypatch):
    monkeypatch.setattr("diffgen.commands.data_dependent.MOST", 3)
    read = []

    class Streamed:
        shape = (5, 1, 2, 2)

        def __getitem__(self, index):
            read.extend(index.tolist())
            return torch.tensor([0, 255, 255])[: len(index), None, None, None].byte()

    of = range_of("standardised", Images(Streamed(), None, (), "disk", ""))
    assert read == [0, 2, 4]
    assert of.shift == pytest.approx(2 / 3)


def test_what_is_given_is_kept(tmp_path):
    found = resolved(wanting(tmp_path, schedule={"sigma_max": 7.0})).plain["schedule"]
    assert (found["sigma_max"], found["levels"]) == (7.0, levels_of(7.0, 0.01, 0.5, 64))
    found = resolved(wanting(tmp_path, schedule={"levels": 33})).plain["schedule"]
    assert (found["sigma_max"], found["levels"]) == (4.81372, 33)


def test_a_set_is_measured_once(tmp_path, monkeypatch):
    resolved(wanting(tmp_path))
    monkeypatch.setattr(resolve, "widest", None)
    assert resolved(wanting(tmp_path)).plain["schedule"]["levels"] == 21
    next((tmp_path / "distances").iterdir()).write_text("{")
    monkeypatch.setattr(resolve, "widest", widest)
    assert resolved(wanting(tmp_path)).plain["schedule"]["levels"] == 21


def test_sigma_data_is_the_deviation_in_the_models_range(tmp_path):
    images = Digits().split("train")
    edm = {"name": "edm", "sigma_data": None}
    config = wanting(tmp_path, prediction=edm, model={"range": "symmetric"})
    found = resolved(config, images).plain["prediction"]["sigma_data"]
    seen = RANGES["symmetric"].to_model(images.pixels)
    assert found == pytest.approx(seen.double().std().item(), rel=1e-4)
    assert resolved(config, images).recipe.denoiser((1, 8, 8), 0).prediction.sigma_data == found


V1 = ModelSettings(name="ncsn", noise_input="index", range="unit")
TEN = Geometric(sigma_max=1.0, levels=10)


@pytest.mark.parametrize("spacing", ["linspace", "log_snr", "trailing"])
def test_a_network_of_ten_levels_is_asked_at_ten(spacing):
    for steps in (None, 10, 7):
        times = times_of(V1, TEN, spacing, steps)
        index = times[:-1] * 10
        assert len(times) == (steps or 10) + 1
        assert torch.equal(index, index.round())
        assert (index.diff() < 0).all()
    assert times_of(replace(V1, noise_input="level"), TEN, "log_snr", 7)[1] * 10 % 1 != 0


@pytest.mark.parametrize(
    ("spacing", "steps", "words"),
    [
        ("linspace", 11, "10 noise levels"),
        ("trailing", 50, "10 levels"),
        ("ends", None, "between"),
    ],
)
def test_a_network_of_ten_levels_refuses_others(spacing, steps, words):
    with pytest.raises(UsageError, match=words):
        times_of(V1, TEN, spacing, steps)


def test_a_network_of_ten_levels_refuses_churn():
    with pytest.raises(UsageError, match=r"sampler\.churn=0"):
        plan_of(Heun(churn=1.0), 5, V1, TEN)
    assert plan_of(Heun(), 5, V1, TEN).steps == 5


def test_levels_by_index_need_levels():
    plain = wanting("").plain
    model = {**plain["model"], "noise_input": "index"}
    recipe = {**plain, "model": model, "schedule": {"name": "ve"}}
    with pytest.raises(UsageError, match="schedule of levels"):
        recipe_of(recipe).denoiser((1, 8, 8), 0)
