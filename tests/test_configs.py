"""Configs tell the truth: the choice that is shown is the class that is built."""

import inspect
import re
from argparse import Namespace
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from running import here, worked

from diffgen.cli.config_files import config_dir
from diffgen.cli.help import Shown, leaves
from diffgen.cli.help_texts import Explanations
from diffgen.cli.recipe_choice import recipes
from diffgen.cli.registry import COMMANDS as REGISTERED
from diffgen.config.build import find
from diffgen.config.parts import OWN
from diffgen.config.schema import SETTINGS, check
from diffgen.evaluation.metrics import GROUPS, METRICS
from diffgen.runtime.launch import register
from diffgen.schedule.spacing import SPACINGS

CONFIGS = Path(config_dir())
TRAIN = (
    *("dataset", "ema", "logger", "model", "network", "optimizer", "prediction", "recipe"),
    *("sampler", "schedule", "times", "trainer", "weighting"),
)
SAMPLE = ("features", "guidance", "logger", "sampler", "task")
ROOMS = (  # of the package, too
    *("dataset", "guidance", "network", "prediction", "sampler", "schedule", "task", "times"),
    "weighting",
)


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@cache
def composed(command: str, *words: str) -> DictConfig:
    """The configuration that Hydra composes for a command line, its own part included."""
    register()
    words = tuple(recipes(command, Namespace(config_dir=None, config_name=None)).added(words))
    with initialize_config_dir(version_base="1.3", config_dir=config_dir()):
        return compose(command, overrides=list(words), return_hydra_config=True)


def made(config: DictConfig) -> dict[str, Any]:
    """The choices that Hydra reports, by group."""
    shown = config.hydra.runtime.choices
    return {g: c for g, c in shown.items() if "/" not in g and "@preview" not in g}


def named(config: DictConfig, key: str) -> dict[str, str]:
    """The choice shown of a group, and the name of what is built."""
    shown = {group.partition("@")[0]: choice for group, choice in made(config).items()}
    return {"shown": shown[key], "built": config[key].name}


def stands_for(group: str, shown: str, built: str) -> bool:
    """Whether a choice is a class or a preset of it, CLASS_PRESET; data sets have own names."""
    return shown == built or shown.startswith(f"{built}_") or group == "dataset"


BESIDE = {  # what a choice cannot do without
    ("network", "classifier"): ["model=classifier"],
    ("network", "classifier_unet"): ["model=classifier"],
    ("schedule", "flow"): ["prediction=flow"],
}
PAIRS = [(room, choice) for room in ROOMS for choice in choices(room)]


@pytest.mark.parametrize(("room", "choice"), PAIRS, ids=str)
def test_a_choice_names_its_class_and_only_its_arguments(room, choice):
    command = "sample" if room in SAMPLE else "train"
    beside = BESIDE.get((room, choice), [])
    none = ["recipe=none"] if command == "train" else []
    config = composed(command, f"{room}={choice}", *none, *beside)
    settings = dict(config._get_node(room).items_ex(resolve=False))
    name = settings.pop("name")
    assert named(config, room)["shown"] == choice
    assert stands_for(room, choice, name)
    if room == "sampler":
        assert settings.pop("steps").startswith("${oc.select:steps,")
        assert settings.pop("spacing", "karras") in SPACINGS
    if room == "guidance":
        for key in ("checkpoint", "classifier_free"):  # for code, which passes a model on
            settings.pop(key, None)
    known = set() if name == OWN else set(inspect.signature(find(room, name)).parameters)
    assert set(settings) <= known
    check(command, config)


RECIPES = [name for name in choices("recipe") if name != "none"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_choices_shown_of_a_recipe_are_what_is_built(recipe):
    model, _, dataset = recipe.partition("_")
    config = composed("train", f"model={model}", f"dataset={dataset}")
    shown = {group.partition("@")[0]: choice for group, choice in made(config).items()}
    assert shown["recipe"] == recipe
    assert (shown["model"], shown["dataset"]) == (model, dataset)
    for room in ("schedule", "network", *(["sampler"] if "sampler" in config else [])):
        assert stands_for(room, shown[room], config[room].name)
        own = composed("train", f"{room}={shown[room]}", "recipe=none")[room]
        stated = yaml.safe_load((CONFIGS / f"recipe/{recipe}.yaml").read_text()).get(room, {})
        assert dict(config[room]) == {**own, **stated}
    assert dict(config.ema) == dict(composed("train", f"ema={shown['ema']}", "recipe=none").ema)


def test_help_and_info_show_the_choices_made(tmp_path):
    words = ("train", "model=ncsnv2", "dataset=mnist")
    shown = worked(here(tmp_path, *words, "--help")).out
    for choice in ("unet_mnist_wide", "ncsnv2_warm", "ncsnv2_mnist"):
        assert f"[{choice}]" in shown
    rows = worked(here(tmp_path, *words, "--info", "defaults")).out.splitlines()
    files = {row.split("|")[1].strip() for row in rows if row.count("|") > 3}
    assert {"network/unet_mnist_wide", "ema/ncsnv2_warm", "recipe/ncsnv2_mnist"} <= files
    assert "network/refinenet" not in files
    job = yaml.safe_load(worked(here(tmp_path, *words, "--cfg", "job")).out)
    assert job["network"]["name"] == "unet"


def lines() -> Iterator[tuple[str, tuple[str, ...]]]:
    for command, groups in (("train", TRAIN), ("sample", SAMPLE)):
        for group in sorted({*groups} - {*ROOMS}):
            for choice in choices(group):
                yield (
                    command,
                    (f"{group}={choice}", *(of_recipe(choice) if group == "recipe" else ())),
                )


def of_recipe(name: str) -> tuple[str, ...]:
    """The model and the data set that a recipe is for."""
    model, _, dataset = name.partition("_")
    return (f"model={model}", f"dataset={dataset}") if dataset else ()


@pytest.mark.parametrize(("command", "words"), lines(), ids=str)
def test_every_choice_composes_into_known_keys(command, words):
    check(command, composed(command, *words))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_applies_by_itself_and_yields_to_the_command_line(recipe):
    model, _, dataset = recipe.partition("_")
    stated = yaml.safe_load((CONFIGS / "recipe" / f"{recipe}.yaml").read_text())
    pair = (f"model={model}", f"dataset={dataset}")
    assert composed("train", *pair).trainer.max_steps == stated["trainer"]["max_steps"]
    assert composed("train", *pair, "trainer.max_steps=7").trainer.max_steps == 7


def test_explain_takes_the_recipe_that_training_takes_and_none_is_none():
    assert composed("explain", "dataset=mnist").trainer.max_steps == 6000
    assert composed("train", "dataset=mnist", "recipe=none").trainer.max_steps == 4000


def test_another_recipe_may_be_named():
    config = composed("train", "model=ddpm", "dataset=svhn", "recipe=ddpm_cifar10")
    assert config.trainer.max_steps == 800_000
    assert config.dataset.name == "svhn"


CATEGORIES = {"bedroom": "bedroom", "church_outdoor": "church", "tower": "tower"}


@pytest.mark.parametrize(("category", "name"), CATEGORIES.items(), ids=str)
def test_a_category_of_lsun_has_the_recipe_of_its_own_name(category, name):
    one = composed("train", "model=ncsnv2", "dataset=lsun", f"dataset.category={category}")
    other = composed("train", "model=ncsnv2", f"dataset=lsun_{name}")
    assert check("train", one).plain == check("train", other).plain
    assert made(one)["recipe"] == f"ncsnv2_lsun_{name}"


def test_a_category_without_a_recipe_has_none():
    words = ("model=ncsnv2", "dataset=lsun_bedroom", "dataset.category=kitchen")
    assert made(composed("train", *words))["recipe"] == "none"


def test_recipes_are_found_in_a_folder_of_the_user(tmp_path):
    (tmp_path / "own/recipe").mkdir(parents=True)
    text = "# @package _global_\ntrainer: {max_steps: 123}\n"
    (tmp_path / "own/recipe/ddpm_svhn.yaml").write_text(text)
    words = ("train", "--config-dir", "own", "dataset=svhn", "--cfg", "job")
    job = yaml.safe_load(worked(here(tmp_path, *words)).out)
    assert job["trainer"]["max_steps"] == 123


def test_weights_of_a_checkpoint_are_named_by_the_word_that_chooses_an_average(tmp_path):
    job = yaml.safe_load(worked(here(tmp_path, "sample", "ema=raw", "--cfg", "job")).out)
    assert job["ema"] == "raw"
    job = yaml.safe_load(worked(here(tmp_path, "train", "ema=edm", "--cfg", "job")).out)
    assert job["ema"]["average"]["ramp"] == 0.05


COMMANDS = ("train", "explain", "sample", "tune")


def shown(command: str, *words: str) -> Shown:
    """What help says of a command line."""
    args = Namespace(config_dir=None, config_name=None, topics=[])
    args.overrides = recipes(command, args).added(words)
    return Shown(REGISTERED[command], args)


def explained() -> Iterator[tuple[str, ...]]:
    yield from ((command,) for command in COMMANDS)
    for group in sorted({*TRAIN} - {"sampler", "recipe"}):
        yield from (("train", f"{group}={choice}") for choice in choices(group))
    for group in SAMPLE:
        yield from (("sample", f"{group}={choice}") for choice in choices(group))


@pytest.mark.parametrize("words", explained(), ids=" ".join)
def test_every_key_is_explained(words):
    register()
    found = shown(*words)
    keys = [key for key, _ in leaves(found.config) if not key.endswith(".name")]
    assert [key for key in keys if key != "hydra" and not found.explained(key)] == []


@pytest.mark.parametrize("group", sorted({*TRAIN, *SAMPLE}))
def test_every_choice_is_explained(group):
    about = Explanations((CONFIGS,))
    assert all(about.choice(group, choice) for choice in choices(group))


@pytest.mark.parametrize(("room", "choice"), PAIRS, ids=str)
def test_help_names_the_words_that_a_key_takes(room, choice):
    settings = yaml.safe_load((CONFIGS / f"{room}/{choice}.yaml").read_text())
    if settings.get("name", OWN) == OWN:
        return  # a preset, with the keys of its class
    about, cls = Explanations((CONFIGS,)), find(room, settings["name"])
    hints = get_type_hints(cls.__init__ if room == "network" else cls)
    for key in settings.keys() & hints.keys():
        text = about.key(f"{room}/{choice}", key)
        if key != "category":  # of LSUN, which has thirty
            assert all(str(word) in text for word in words(hints[key])), key


def words(hint: Any) -> Iterator[object]:
    """The values that a type allows by name."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    for part in get_args(hint):
        if get_origin(part) is not None:
            yield from words(part)


def test_metrics_and_spacings_are_listed():
    about = Explanations((CONFIGS,))
    assert re.findall(r"\w+", about.key("sample", "metrics")) == [*METRICS, *GROUPS]
    listed = re.findall(r"\w+", about.key("sample", "spacing"))
    assert listed == ["auto", *SPACINGS, "or", "tuned"]


def test_every_group_is_covered_here():
    groups = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    assert groups == {*TRAIN, *SAMPLE, "hydra"}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(SETTINGS)
