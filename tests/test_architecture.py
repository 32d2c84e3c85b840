"""The import rule, and configs that mirror the rooms they set."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from diffgen.config.build import find
from diffgen.config.schema import SETTINGS, check
from diffgen.runtime.ranks import register

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, CONFIGS = ROOT / "diffgen", ROOT / "configs"

EVERYWHERE = {"errors", "build"}
CORE = {"schedule", "spacing", "model", "pixels"}
KNOWS = {
    "errors": set(),
    "build": set(),
    "pixels": set(),
    "schedule": set(),
    "dataset": set(),
    "measure": {"dataset"},
    "evaluation": {"pixels"},
    "spacing": {"schedule"},
    "model": {"schedule"},
    "interop": {"model", "schedule"},
    "guidance": {"schedule", "model"},
    "sampler": {"schedule", "model"},
    "training": CORE | {"sampler", "checkpoint_format"},
    "task": CORE | {"sampler"},
    "cli": {"command"},
    "__main__": {"cli"},
    "command": {"training"},
}
COMMANDS = {"explain"}  # rooms that belong to a command, which may know everything
LIBRARIES = {
    "hydra": {"command", "train", "sample", "explain"},
    "lightning": {"training", "dataset", "train", "sample", "tune"},
    "torchmetrics": {"evaluation"},
    "torch_fidelity": {"evaluation"},
    "diffusers": {"interop"},
    "pytorch_lightning": set(),
}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[list[str]]:
    """The dotted parts of every import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            for alias in node.names:
                yield [*node.module.split("."), alias.name]


def bound() -> list[str]:
    """The rooms, and the files that rooms use; the other files are the commands' and free."""
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return sorted((rooms | set(KNOWS)) - COMMANDS)


@pytest.mark.parametrize("name", bound())
def test_a_room_imports_only_what_it_may_know(name):
    assert name in KNOWS, f"diffgen/{name} is new: say in KNOWS what it may import"
    used = {
        parts[1]
        for path in sources()
        if room(path) == name
        for parts in imports(path)
        if parts[0] == "diffgen" and len(parts) > 1
    }
    assert used - {name, "__version__"} <= KNOWS[name] | EVERYWHERE


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_stays_in_its_rooms(library):
    users = {room(path) for path in sources() for parts in imports(path) if parts[0] == library}
    assert users <= LIBRARIES[library]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_short_and_says_what_it_is(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert text.count("\n") < 250


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


MIRRORED = ("dataset", "guidance", "network", "sampler", "schedule", "task")
PAIRS = [(group, choice) for group in MIRRORED for choice in choices(group)]


@pytest.mark.parametrize(("group", "choice"), PAIRS, ids=lambda v: str(v))
def test_a_config_names_a_class_and_only_its_arguments(group, choice):
    settings = yaml.safe_load((CONFIGS / group / f"{choice}.yaml").read_text())
    name = settings.pop("name")
    assert name == choice or group == "dataset"  # of which a choice may be one part
    if group == "sampler":
        assert settings.pop("steps").startswith("${oc.select:steps,")
    if group == "guidance":
        for key in ("checkpoint", "classifier_free"):  # for code, which passes a model on
            settings.pop(key, None)
    accepted = set(inspect.signature(find(group, name)).parameters)
    assert set(settings) <= accepted


TRAIN = ("averages", "dataset", "logger", "model", "network", "optimizer", "schedule", "trainer")
SAMPLE = ("features", "guidance", "logger", "sampler", "task")


def lines() -> Iterator[tuple[str, tuple[str, ...]]]:
    for command, groups in (("train", TRAIN), ("sample", SAMPLE)):
        for group in groups:
            yield from ((command, (f"{group}={choice}",)) for choice in choices(group))
    for recipe in choices("recipe"):
        model, _, dataset = recipe.partition("_")
        yield "train", (f"model={model}", f"dataset={dataset}")


@pytest.mark.parametrize(("command", "overrides"), lines(), ids=str)
def test_every_choice_composes_into_known_keys(command, overrides):
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        check(command, compose(command, overrides=list(overrides)))


@pytest.mark.parametrize("recipe", choices("recipe"))
def test_a_recipe_applies_by_itself_and_yields_to_the_command_line(recipe):
    model, _, dataset = recipe.partition("_")
    stated = yaml.safe_load((CONFIGS / "recipe" / f"{recipe}.yaml").read_text())
    pair = [f"model={model}", f"dataset={dataset}"]
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        alone = compose("train", overrides=pair)
        beside = compose("train", overrides=[*pair, "trainer.max_steps=7"])
    assert alone.trainer.max_steps == stated["trainer"]["max_steps"]
    assert beside.trainer.max_steps == 7


def test_every_group_is_covered_here():
    groups = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    assert groups <= {*TRAIN, *SAMPLE, *MIRRORED, "recipe", "hydra"}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(SETTINGS)
