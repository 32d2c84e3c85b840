"""Every setting of the papers' recipes, and that the command line beats each of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from running import here, settings, tree

from diffgen.cli.config_files import config_dir
from diffgen.config.build import build, names, typed
from diffgen.config.recipe import DenoiserRecipe, ModelSettings, recipe_of
from diffgen.config.schema import Train
from diffgen.denoiser.noise_input import NOISE_INPUTS
from diffgen.errors import UsageError
from diffgen.network.refinenet import depth_for
from diffgen.sampling.plan import times_of
from diffgen.schedule.geometric import Geometric
from diffgen.training.loss import Loss
from diffgen.training.random_numbers import RandomNumbers

MILLION = 1_000_000

ADAM = {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "decay": "constant"}
ADAM |= {"hold": None, "momentum": None, "matrix_lr": None}
# What all of a family share: per sample, unlabelled, in full precision.
COMMON = {
    "model.labels": False,
    "model.level_per": "sample",
    "weighting.name": "simple",
    "trainer.accumulate": 1,
    "trainer.precision": "32-true",
    "seed": 0,
}
NCSN = COMMON | {
    "prediction.name": "raw_score",
    "model.noise_input": "index",
    "model.range": "unit",
    "times.name": "uniform",
    "model.reduction": "sum",
    "model.dequantise": True,
    "network.name": "ncsn_refinenet",
    "schedule.name": "geometric",
    "schedule.sigma_max": 1.0,
    "schedule.sigma_min": 0.01,
    "schedule.levels": 10,
    "optimizer": {**ADAM, "lr": 1e-3, "warmup": 0},
    "ema": {},
    "trainer.clip": None,
    "trainer.batch_size": 128,
    "trainer.max_steps": 200_001,
    "trainer.snapshot_every": 5000,
    "sampler.name": "langevin",
    "sampler.epsilon": 2e-5,
    "sampler.inner": 100,
    "sampler.convention": "code",
    "sampler.denoise": False,
    "sampler.steps": None,
}
NCSNV2 = COMMON | {
    "prediction.name": "score",
    "model.noise_input": "nothing",
    "model.range": "unit",
    "times.name": "uniform",
    "model.reduction": "sum",
    "model.dequantise": False,
    "network.name": "refinenet",
    "network.width": 128,
    "schedule.name": "ncsnv2",
    "schedule.sigma_min": 0.01,
    "optimizer": {**ADAM, "lr": 1e-4, "warmup": 0},
    "ema": {"average": {"decay": 0.999, "warmup": False, "width": None}},
    "trainer.clip": None,
    "trainer.batch_size": 128,
    "trainer.snapshot_every": 5000,
    "dataset.flip": True,
    "sampler.name": "langevin",
    "sampler.convention": "code",
    "sampler.denoise": True,
    "sampler.steps": None,
}
DDPM = COMMON | {
    "prediction.name": "eps",
    "model.noise_input": "level",
    "model.range": "symmetric",
    "times.name": "uniform",
    "model.reduction": "mean",
    "model.dequantise": False,
    "model.clip": True,
    "network.name": "unet",
    "network.width": 128,
    "network.blocks": 2,
    "network.attention": [16],
    "network.heads": 1,
    "network.head_width": None,
    "network.groups": 32,
    "network.embedding": "add",
    "network.downsample": "strided",
    "schedule.name": "linear",
    "schedule.levels": 1000,
    "schedule.beta_min": 1e-4,
    "schedule.beta_max": 0.02,
    "schedule.zero_snr": False,
    "ema.average.decay": 0.9999,
    "trainer.clip": 1.0,
    "sampler.name": "ddpm",
    "sampler.steps": None,
    "dataset.flip": True,
}
EDM = COMMON | {
    "model.labels": True,
    "prediction.name": "edm",
    "prediction.sigma_data": 0.5,
    "model.noise_input": "log_sigma",
    "model.range": "symmetric",
    "times.name": "log_normal",
    "weighting.name": "edm",
    "model.reduction": "mean",
    "model.label_dropout": 0.0,
    "model.dequantise": False,
    "model.clip": False,
    "network.name": "song_unet",
    "network.width": 128,
    "network.multipliers": [2, 2, 2],
    "network.blocks": 4,
    "network.attention": [16],
    "network.dropout": 0.13,
    "network.embedding": "sinusoid",
    "network.encoder": "standard",
    "network.taps": [1, 1],
    "schedule.name": "edm",
    "schedule.sigma_max": 80.0,
    "schedule.sigma_min": 0.002,
    "schedule.rho": 7.0,
    "optimizer": {**ADAM, "lr": 1e-3, "warmup": 19_531},
    "ema.average.decay": 0.99929,
    "ema.average.ramp": 0.05,
    "trainer.clip": None,
    "trainer.batch_size": 512,
    "trainer.max_steps": 390_625,
    "dataset.flip": False,
    "augment": 0.12,
    "network.augment_dim": 9,
    "sampler.name": "heun",
    "sampler.churn": 0.0,
    "sampler.steps": 18,
}
DDPM_256 = DDPM | {
    "network.multipliers": [1, 1, 2, 2, 4, 4],
    "network.dropout": 0.0,
    "optimizer": {**ADAM, "lr": 2e-5, "warmup": 5000},
    "trainer.batch_size": 64,
    "dataset.size": 256,
    "sampler.variance": "fixedsmall",
}


FLOW = COMMON | {
    "prediction.name": "flow",
    "model.noise_input": "level",
    "model.range": "symmetric",
    "times": {"name": "logit_normal", "mean": -1.2, "std": 1.2},
    "weighting.floor": 0.0,
    "model.reduction": "mean",
    "model.dequantise": False,
    "model.clip": False,
    "network.name": "unet",
    "network.width": 128,
    "network.multipliers": [2, 2, 2],
    "network.blocks": 4,
    "network.attention": [16],
    "network.heads": 1,
    "network.dropout": 0.3,
    "network.embedding": "scale_shift",
    "network.downsample": "plain",
    "network.stem": 256,  # its first convolution gives the channels of the first resolution
    "network.frequencies": "cosine",
    "network.norm_eps": 1e-5,
    "schedule": {"name": "flow", "shift": 1.0, "t_min": 1e-3},
    "optimizer": {
        **ADAM,
        "lr": 1e-4,
        "betas": [0.9, 0.95],
        "weight_decay": 0.01,  # that of torch's AdamW, which the code leaves as it is
        "warmup": 0,
    },
    "ema.average.decay": 0.999,
    "ema.average.warmup": True,
    "trainer.clip": None,
    "trainer.batch_size": 64 * 8,
    "trainer.max_steps": 3000 * (50_000 // 512),
    "dataset.flip": True,
    "sampler.name": "heun",
    "sampler.steps": 50,  # of 2 evaluations: its option nfe counts times, not evaluations
}


def ladder(top: float, levels: int, epsilon: float, inner: int, steps: int, depth: str) -> dict:
    return NCSNV2 | {
        "schedule.sigma_max": top,
        "schedule.levels": levels,
        "sampler.epsilon": epsilon,
        "sampler.inner": inner,
        "trainer.max_steps": steps,
        "network.depth": depth,
    }


# (model, dataset): every field of the paper's table, and what follows from it: million
# parameters, evaluations per image, ratio of neighbouring levels
RECIPES: dict[tuple[str, str], tuple[dict[str, Any], dict[str, float]]] = {
    ("ncsn", "mnist"): (
        NCSN | {"dataset.flip": False, "network.width": 64},
        {"nfe": 1000, "ratio": 1.668},
    ),
    ("ncsn", "cifar10"): (
        NCSN | {"dataset.flip": True, "network.width": 128},
        {"nfe": 1000, "ratio": 1.668},
    ),
    ("ncsn", "celeba"): (
        NCSN
        | {"dataset.flip": True, "network.width": 128}
        | {"dataset.size": 32, "dataset.crop": "ncsn"},
        {"nfe": 1000, "ratio": 1.668},
    ),
    ("ncsnv2", "cifar10"): (
        ladder(50, 232, 6.2e-6, 5, 300_001, "standard"),
        {"nfe": 1161, "ratio": 1.03756},
    ),
    ("ncsnv2", "celeba"): (
        ladder(90, 500, 3.3e-6, 5, 210_001, "standard")
        | {"dataset.size": 64, "dataset.crop": "ncsn"},
        {"nfe": 2501, "ratio": 1.01841},
    ),
    ("ncsnv2", "lsun_church"): (
        ladder(140, 788, 4.9e-6, 4, 200_001, "deeper")
        | {"dataset.size": 96, "dataset.category": "church_outdoor"},
        {"nfe": 3153, "ratio": 1.01220},
    ),
    ("ncsnv2", "lsun_bedroom"): (
        ladder(190, 1086, 1.8e-6, 3, 150_001, "deeper")
        | {"dataset.size": 128, "dataset.category": "bedroom"},
        {"nfe": 3259, "ratio": 1.00912},
    ),
    ("ncsnv2", "lsun_tower"): (
        ladder(190, 1086, 1.8e-6, 3, 150_001, "deeper")
        | {"dataset.size": 128, "dataset.category": "tower"},
        {"nfe": 3259, "ratio": 1.00912},
    ),
    ("ncsnv2", "ffhq"): (
        ladder(348, 2311, 0.9e-6, 3, 80_001, "deepest")
        | {"dataset.size": 256, "trainer.batch_size": 32}
        | {"optimizer": {**ADAM, "lr": 1e-4, "warmup": 0, "eps": 1e-3}},
        {"nfe": 6934, "ratio": 1.00454},
    ),
    ("ddpm", "cifar10"): (
        DDPM
        | {
            "network.multipliers": [1, 2, 2, 2],
            "network.dropout": 0.1,
            "optimizer": {**ADAM, "lr": 2e-4, "warmup": 5000},
            "trainer.batch_size": 128,
            "trainer.max_steps": 800_000,
            "sampler.variance": "fixedlarge",
        },
        {"nfe": 1000, "million": 35.746307},
    ),
    ("ddpm", "celeba"): (
        DDPM
        | {
            "network.multipliers": [1, 2, 2, 2, 4],
            "network.dropout": 0.1,
            "optimizer": {**ADAM, "lr": 2e-4, "warmup": 0},
            "trainer.batch_size": 128,
            "trainer.max_steps": 5_000_000,
            "model.reduction": "sum",
            "times.name": "antithetic",
            "dataset.size": 64,
            "dataset.crop": "ddim",
            "sampler.variance": "fixedlarge",
        },
        {"nfe": 1000},
    ),
    ("ddpm", "celeba_hq"): (
        DDPM_256 | {"trainer.max_steps": 500_000},
        {"nfe": 1000, "million": 113.67},
    ),
    ("ddpm", "lsun_church"): (
        DDPM_256 | {"trainer.max_steps": 1_200_000, "dataset.category": "church_outdoor"},
        {"nfe": 1000, "million": 113.67},
    ),
    ("ddpm", "lsun_bedroom"): (
        DDPM_256 | {"trainer.max_steps": 2_400_000, "dataset.category": "bedroom"},
        {"nfe": 1000, "million": 113.67},
    ),
}
RECIPES["edm", "cifar10"] = (EDM, {"nfe": 18})  # Heun: 35 evaluations
RECIPES["flow", "cifar10"] = (
    FLOW | {"weighting.name": "flow"},
    {"nfe": 50, "million": 55.68},  # 99 evaluations
)
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
UNLABELLED = ("celeba", "celeba_hq", "lsun_church", "lsun_bedroom", "lsun_tower", "ffhq")
EVERY = pytest.mark.parametrize("pair", RECIPES, ids="_".join)


def composed(pair: tuple[str, str], *overrides: str) -> dict[str, Any]:
    model, dataset = pair
    return settings("train", f"model={model}", f"dataset={dataset}", *overrides)


def read(pair: tuple[str, str], *overrides: str) -> Train:
    """The settings of a recipe, as `diffgen train` reads and checks them."""
    model, dataset = pair
    return tree("train", f"model={model}", f"dataset={dataset}", *overrides)


def at(config: dict[str, Any], key: str) -> Any:
    """The value under a key with dots, a model's own default where the config leaves it open."""
    found: Any = config
    if key.startswith("model."):
        found = {"model": vars(typed(ModelSettings, "model", config["model"]))}
    if key == "network.depth" and config["network"]["depth"] == "auto":
        dataset = config["dataset"]
        size = dataset.get("size") or SHAPES[dataset["name"]][1]
        return depth_for(size)
    for part in key.split("."):
        found = found[part]
    return found


@EVERY
def test_every_field_is_the_papers(pair):
    stated, _ = RECIPES[pair]
    config = composed(pair)
    labels = {"model.labels": True} if pair[1] in UNLABELLED else {}
    found = {key: at(config, key) for key in stated}
    assert found == stated | labels


@EVERY
def test_what_follows_is_as_published(pair):
    _, figures = RECIPES[pair]
    found = read(pair)
    config, recipe = found.plain, found.recipe
    assert not recipe.unmeasured()
    schedule = recipe.schedule.build()
    if "ratio" in figures:
        ends = {key: config["schedule"][key] for key in ("sigma_max", "sigma_min", "levels")}
        told = 5e-4 if pair[0] == "ncsn" else 5e-6  # digits in print
        assert Geometric(**ends).ratio == pytest.approx(figures["ratio"], abs=told)
    size = config["dataset"].get("size")
    with torch.device("meta"):
        network = recipe.raw_network(SHAPES.get(pair[1], (3, size, size)), 0)
    if "million" in figures:
        count = sum(parameter.numel() for parameter in network.parameters())
        assert count / MILLION == pytest.approx(figures["million"], abs=0.005)
    options, chosen = config["sampler"], found.sampler
    spacing = chosen.build().spacing if chosen.spacing == "auto" else chosen.spacing
    count = len(times_of(recipe.model, schedule, spacing, chosen.steps)) - 1
    moves = count * options.get("inner", 1) + options.get("denoise", False)
    assert moves == figures["nfe"]


SMALL = [("ddpm", "digits"), ("ddpm", "mnist"), ("ncsn", "digits")]
SMALL += [("edm", "digits"), ("edm", "mnist"), ("flow", "digits"), ("flow", "mnist")]
SMALL += [("jit", "digits"), ("jit", "mnist")]
SMALL += [("ncsnv2", "digits"), ("ncsnv2", "mnist")]


@pytest.mark.parametrize("pair", SMALL, ids="_".join)
def test_small_recipes_learn_labels_in_few_steps(pair):
    config = composed(pair)
    assert config["trainer"]["max_steps"] <= 13_000
    assert config["model"]["labels"]


CLASSIFIERS = [("classifier", "digits"), ("classifier", "mnist")]


@pytest.mark.parametrize("pair", CLASSIFIERS, ids="_".join)
def test_a_classifier_has_the_schedule_and_the_range_of_the_model_it_guides(pair):
    guided, config = composed(("ddpm", pair[1])), composed(pair)
    assert config["schedule"] == guided["schedule"]
    assert config["model"]["range"] == guided["model"]["range"]
    assert config["model"]["noise_conditional"]


def test_edms_figures_are_its_papers():
    """10 million images of warm-up, 200 of training, a half-life of half a million."""
    stated, _ = RECIPES["edm", "cifar10"]
    batch = stated["trainer.batch_size"]
    assert batch * stated["trainer.max_steps"] == 200 * MILLION
    assert batch * stated["optimizer"]["warmup"] == pytest.approx(10 * MILLION, abs=batch)
    assert stated["ema.average.decay"] == pytest.approx(0.5 ** (batch / (MILLION / 2)), abs=5e-6)


@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10", "folder"])
def test_jit_is_its_papers_combination(dataset):
    """Li and He 2025: x0 from a transformer, v's loss divided by no less than 0.05, Heun.

    Their time is 1 - t, whose logit is normal with mean -0.8.
    """
    config = composed(("jit", dataset))
    assert config["network"]["name"] == "dit"
    assert config["prediction"] == {"name": "x0"}
    assert config["weighting"] == {"name": "flow", "floor": 0.05}
    assert config["times"] == {"name": "logit_normal", "mean": 0.8, "std": 0.8}
    assert config["schedule"] == {"name": "flow", "shift": 1.0, "t_min": 1e-3}
    assert config["optimizer"]["betas"] == [0.9, 0.95]
    assert config["sampler"]["name"] == "heun"


def test_jits_figures_for_cifar10_are_its_papers_of_imagenet():
    """256 patches an image, 5e-5 for 256 images, five epochs of warm-up; the epochs are ours."""
    config, epoch = composed(("jit", "cifar10")), 50_000
    batch, optimizer = config["trainer"]["batch_size"], config["optimizer"]
    assert (32 / config["network"]["patch"]) ** 2 == 256
    assert optimizer["lr"] == pytest.approx(5e-5 * batch / 256)
    assert optimizer["warmup"] * batch == pytest.approx(5 * epoch, abs=batch)
    assert config["trainer"]["max_steps"] * batch == pytest.approx(2000 * epoch, abs=batch)


def test_edm_without_labels_is_the_unconditional_one():
    config = composed(("edm", "cifar10"), "model.labels=false")
    labels = {"model.labels": False}
    stated = RECIPES["edm", "cifar10"][0] | labels
    assert {key: at(config, key) for key in stated} == stated


def test_edms_own_steps_are_karras():
    """sigma_i^(1/7) even from 80 to 0.002, then 0 (equation 5)."""
    recipe = read(("edm", "cifar10")).recipe
    schedule = recipe.schedule.build()
    found = schedule.sigma(times_of(recipe.model, schedule, "karras", 18))
    i = torch.arange(18, dtype=torch.float64)
    own = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(found, torch.cat([own, own.new_zeros(1)]), rtol=1e-9, atol=0)


def test_small_edm_measures_its_data():
    waiting = read(("edm", "digits")).recipe.unmeasured()
    assert waiting == ["prediction.sigma_data", "weighting.sigma_data"]


def test_ncsnv2_takes_its_ladder_from_mnist():
    found = read(("ncsnv2", "mnist"))
    config = found.plain
    assert found.recipe.unmeasured() == ["schedule.sigma_max", "schedule.levels"]
    assert (config["schedule"]["C"], config["schedule"]["sigma_min"]) == (0.5, 0.01)
    assert config["ema"]["average"]["decay"] == 0.999
    assert config["network"]["name"] == "unet"


# A choice on the command line wins over the recipe, and takes none of its keys.
CHOICES = {
    "linear on MNIST": (("ddpm", "mnist"), "schedule=linear", "schedule.name", "linear"),
    "ve on MNIST": (("ddpm", "mnist"), "schedule=ve", "schedule.name", "ve"),
    "refinenet on MNIST": (("ncsnv2", "mnist"), "network=refinenet", "network.name", "refinenet"),
    "dilated on CIFAR-10": (("ddpm", "cifar10"), "network=dilated", "network.name", "dilated"),
    "unet in NCSNv2": (("ncsnv2", "cifar10"), "network=unet", "network.name", "unet"),
    "unet in NCSN": (("ncsn", "mnist"), "network=unet", "network.name", "unet"),
    "measured": (("ncsnv2", "cifar10"), "schedule=ncsnv2", "schedule.sigma_max", None),
    "linear in NCSNv2": (("ncsnv2", "ffhq"), "schedule=linear", "schedule.name", "linear"),
    "heun": (("ncsnv2", "cifar10"), "sampler=heun", "sampler.name", "heun"),
}


@pytest.mark.parametrize(("pair", "word", "key", "value"), CHOICES.values(), ids=CHOICES)
def test_a_choice_beats_the_recipe(pair, word, key, value):
    found = read(pair, word)
    config = found.plain
    assert at(config, key) == value
    measured = recipe_of({**config, "schedule": {"name": "geometric", "sigma_max": 5.0}})
    with torch.device("meta"):
        measured.raw_network((3, 32, 32), 0)
    build("sampler", {k: v for k, v in config["sampler"].items() if k != "steps"})


def test_no_recipe_leaves_the_models_own():
    config = composed(("ncsnv2", "cifar10"), "recipe=none")
    assert config["schedule"]["sigma_max"] is None
    assert config["network"]["name"] == "refinenet"
    assert config["model"]["labels"]


def test_every_recipe_is_held_here():
    files = {path.stem for path in Path(config_dir(), "recipe").glob("*.yaml")}
    files.remove("none")
    own = [("flow", "folder"), ("jit", "folder"), ("jit", "cifar10")]
    assert files == {"_".join(pair) for pair in [*RECIPES, *SMALL, *CLASSIFIERS, *own]}


SIGMA_DATA = {"edm": {"sigma_data": 0.5}}


def pure_noise(schedule: str, prediction: str, noise_input: str) -> dict[str, Any]:
    """A recipe whose schedule ends at alpha = 0."""
    return {
        "model": {"name": "ddpm", "noise_input": noise_input},
        "prediction": {"name": prediction} | SIGMA_DATA.get(prediction, {}),
        "schedule": {"name": schedule, "levels": 50, "zero_snr": True},
        "network": {"name": "unet", "width": 8, "groups": 4, "multipliers": [1], "blocks": 1},
    }


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("noise_input", NOISE_INPUTS)
@pytest.mark.parametrize("prediction", names("prediction"))
def test_at_pure_noise_a_prediction_is_finite_or_refused(prediction, noise_input, schedule):
    """The loss, its gradient and the estimate at t = 1; eps and scores say nothing there."""
    recipe = pure_noise(schedule, prediction, noise_input)
    if prediction in ("eps", "score", "raw_score"):
        with pytest.raises(
            UsageError, match=r"schedule\.zero_snr=true .* prediction=v, flow or x0"
        ):
            cast(DenoiserRecipe, recipe_of(recipe)).denoiser((1, 8, 8), 0)
        return
    loss = cast(Loss, recipe_of(recipe).objective((1, 8, 8), 0))
    last = torch.ones(4, dtype=torch.float64)
    errors, _ = replace(loss, times=lambda *_: last)(
        torch.rand(4, 1, 8, 8), None, RandomNumbers(0, 0, 4, torch.arange(4))
    )
    errors.mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in loss.denoiser.parameters())
    assert loss.denoiser(torch.randn(4, 1, 8, 8), last).isfinite().all()


@pytest.mark.parametrize("command", ["train", "explain"])
def test_what_cannot_be_learned_at_pure_noise_is_told_before_training(command, cache, tmp_path):
    done = here(tmp_path, command, "schedule.zero_snr=true", "schedule.levels=100")
    assert done.status == 2
    assert done.line().startswith("schedule.zero_snr=true leaves nothing of the image at t = 1")


def test_a_null_takes_a_key_away_and_no_more():
    unet = {"name": "unet", "width": 8, "depth": None}
    build("network", unet, channels=1, size=8, has_noise_input=True)
    with pytest.raises(UsageError, match=r"no network\.depth for network=unet"):
        build("network", {**unet, "depth": "deeper"}, channels=1, size=8, has_noise_input=True)
    with pytest.raises(UsageError, match=r"network\.width"):
        build("network", {"name": "unet", "width": None}, channels=1, size=8, has_noise_input=True)


AVERAGES = {
    "the recipe's": ((), 0.999, True),
    "none": (("ema=none",), None, None),
    "ddpm": (("ema=ddpm",), 0.9999, True),
    "ncsnv2": (("ema=ncsnv2",), 0.999, False),
}


@pytest.mark.parametrize(("words", "decay", "warmup"), AVERAGES.values(), ids=AVERAGES)
@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_short_recipes_warm_up_the_average_and_leave_its_choice(dataset, words, decay, warmup):
    ema = settings("train", "model=ncsnv2", f"dataset={dataset}", *words)["ema"]
    chosen = {"average": {"decay": decay, "warmup": warmup, "width": None}}
    assert ema == ({} if decay is None else chosen)
