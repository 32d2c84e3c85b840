"""Settings are read once: no key that nobody reads, no loose mapping handed down."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest
from running import here, settings, tree

import diffgen
from diffgen.config.parts import PreviewSettings, TrainerSettings
from diffgen.config.recipe import ClassifierSettings, ModelSettings
from diffgen.config.schema import SETTINGS
from diffgen.errors import UsageError
from diffgen.training.ema import EmaSettings
from diffgen.training.optimizer import OptimizerSettings

ROOT = Path(diffgen.__file__).parent
# What a command hands its settings to; cli/ and config/schema.py only make them.
READERS = ("commands", "sampling", "training", "runs", "runtime")
PARTS = (
    *(ModelSettings, ClassifierSettings, TrainerSettings, PreviewSettings),
    *(OptimizerSettings, EmaSettings),
)
NAMES = {"name"}  # of a paper's model: runs are named by it, and recipes are told apart


def attributes(path: Path) -> set[str]:
    """The attributes that a file reads."""
    nodes = ast.walk(ast.parse(path.read_text()))
    loads = (n for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load))
    return {node.attr for node in loads}


def read() -> set[str]:
    files = [path for room in READERS for path in (ROOT / room).rglob("*.py")]
    return set().union(*map(attributes, [*files, ROOT / "config" / "recipe.py"]))


@pytest.mark.parametrize("command", SETTINGS)
def test_every_key_of_a_command_is_read(command):
    """Those of recipes' parts by the recipe, which schema.py makes; the rest by name."""
    parts = {"model", "prediction", "times", "weighting", "schedule", "network"}
    parts |= {"init_hash"}  # which the program writes, for whoever reads a recipe
    assert set(SETTINGS[command].model_fields) - parts - read() == set()


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_key_of_a_part_is_read(part):
    found = read() | attributes(ROOT / "config" / "recipe.py")
    assert {field.name for field in fields(part)} - NAMES - found == set()


@pytest.mark.parametrize("command", SETTINGS)
def test_every_key_of_the_configuration_is_typed(command):
    """So a key without a reader is refused: each stands in the tree, and no other is taken."""
    found = settings(command)
    assert found.keys() <= set(SETTINGS[command].model_fields)
    for key, value in found.items():
        if isinstance(value, dict) and key not in ("ema", "logger", "features"):
            with pytest.raises(UsageError):
                tree(command).replaced(**{key: {**value, "nobody_reads": 1}})
    with pytest.raises(UsageError, match="no key 'nobody_reads'"):
        tree(command).replaced(nobody_reads=1)


# Functions outside config/, cli/ and runs/ that take a dict[str, Any] all the same: Lightning and
# torch hand it to them or want it of them, or another program's file or a checkpoint holds it.
LOOSE = {
    *(f"commands/explain/command.py:{name}" for name in ("_origin", "_parts")),
    "dataset/datamodule.py:load_state_dict",
    "runtime/logger.py:logger_of",
    *(f"training/ema.py:on_{name}_checkpoint" for name in ("load", "save")),
    *(f"training/progress.py:on_{name}_checkpoint" for name in ("load", "save")),
    *(f"training/module.py:on_{name}_checkpoint" for name in ("load", "save")),
    "training/module.py:__init__",
    "interop/nvlabs.py:_of",
    "interop/openai.py:_release",
    *(f"interop/score_sde.py:{name}" for name in ("_average", "_recipe", "_assumed")),
    *(f"training/{name}.py:load_state_dict" for name in ("optimizer", "quality")),
    "training/saving.py:save_checkpoint",
}


def handed(path: Path) -> set[str]:
    """The functions of a file that take a dict[str, Any]."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            told = {ast.unparse(each.annotation) for each in taken if each.annotation}
            if "dict[str, Any]" in told:
                found.add(f"{path.relative_to(ROOT)}:{node.name}")
    return found


def test_no_loose_mapping_is_handed_down():
    rooms = ("config", "cli", "runs")
    files = [p for p in ROOT.rglob("*.py") if p.relative_to(ROOT).parts[0] not in rooms]
    assert set().union(*map(handed, files)) <= LOOSE


def test_whole_numbers_may_be_written_as_floats():
    found = tree("sample", "num_samples=1e6", "steps=1e1", "seed=3.0")
    assert (found.num_samples, found.steps, found.seed) == (1_000_000, 10, 3)
    assert found.plain == tree("sample", "num_samples=1000000", "steps=10", "seed=3").plain
    assert [type(found.plain[key]) for key in ("num_samples", "steps", "seed")] == [int] * 3
    assert type(found.plain["guidance"]["weight"]) is float  # which is none


def test_a_list_for_a_group_is_refused_also_with_one_choice(tmp_path):
    for words in (("train", "ema=[ddpm]"), ("train", "optimizer=[adam]"), ("sample", "task=[x]")):
        key = words[1].partition("=")[0]
        said = here(tmp_path, *words).line()
        assert said == f"{key}= takes one choice; -m {key}=A,B runs both"
