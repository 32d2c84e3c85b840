"""What a message tells to type can be typed, in the command that prints it."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

import diffgen
from diffgen.cli.config_files import config_dir
from diffgen.cli.other_words import for_number, table
from diffgen.cli.registry import COMMANDS
from diffgen.config.parts import EvaluateSettings, TrainerSettings
from diffgen.config.schema import SETTINGS
from diffgen.errors import UsageError

PACKAGE = Path(diffgen.__file__).parent
CONFIGS = Path(config_dir())
GROUPS = {path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name != "hydra"}
# The commands that a room's messages are printed by; else all that compose a config.
TRAINING, SAMPLING = {"train", "explain"}, {"sample", "tune"}
PRINTED_BY = {
    **dict.fromkeys(("schedule", "network", "training"), TRAINING),
    **dict.fromkeys(("sampler", "guidance", "task", "sampling", "runs"), SAMPLING),
    **{
        key: {"sample"}
        for key in ("evaluation", "sampling/evaluator", "sampling/foreign", "sampling/publishing")
    },
    **dict.fromkeys(("dataset/batches", "dataset/pixels"), TRAINING),
    **{key: {"train", "sample"} for key in ("dataset", "runtime")},
    "commands/train": TRAINING,
    "commands/resume": TRAINING,
    "commands/train_callbacks": TRAINING,
    "cli/preflight_callback": TRAINING,
    "commands/initial_weights": TRAINING,
    "commands/data_dependent": TRAINING,
    "commands/explain": TRAINING,
    "commands/explain/command": {"explain"},
    "commands/tune": {"tune"},
    "commands/sample": {"sample"},
    "commands/sampling_job": {"sample"},
    "commands/import_": {"import"},
    "commands/exported": {"export"},
    "commands/evaluate": {"evaluate"},
    "commands/report": {"report"},
    "interop": {"import"},
    "config/recipe": TRAINING,
}
KEY = re.compile(r"(?<![\w.{\[/'-])([a-z]\w*(?:\.\w+)*)=(?!=)([\w.\[\]-]*)")
REMEDY = re.compile(r"; |: |\b(?=(?:take|set|use|give|add|lower|raise|leave) )")
OURS = {  # of functions, not of command lines
    *("groups", "beta_schedule", "ladder", "label", "k", "levels", "sigma_max", "num_samples"),
}


def flattened(tree: dict, prefix: str = "") -> set[str]:
    keys = {f"{prefix}{key}" for key in tree}
    for key, value in tree.items():
        if isinstance(value, dict):
            keys |= flattened(value, f"{prefix}{key}.")
    return keys


@cache
def keys_of(command: str) -> set[str]:
    """Every key that a command takes with some choice of its groups."""
    found = set(SETTINGS[command].model_fields) | {"recipe", "hydra.run.dir", "hydra.sweep.dir"}
    for group in GROUPS & found | {"trainer", "preview"} & found:
        found.add(group)
        for path in CONFIGS.glob(f"{group}/*.yaml"):
            stated = yaml.safe_load(path.read_text()) or {}
            package = "" if "@package _global_" in path.read_text() else f"{group}."
            found |= flattened(stated, package)
    found |= {f"preview.{key}" for key in found if key.startswith("sampler.")}
    if "trainer" in found:
        found |= {f"trainer.{name}" for name in TrainerSettings.__dataclass_fields__}
        found |= {"preview.every", "preview.num_samples"}
        found |= {f"evaluate.{name}" for name in EvaluateSettings.__dataclass_fields__}
    return found


def values_fit(key: str, value: str) -> bool:
    """Whether a choice that is named is there."""
    literal = re.fullmatch(r"[a-z][\w-]*", value) and f"{key}={value}" != "ema=raw"
    return key not in GROUPS or not literal or (CONFIGS / key / f"{value}.yaml").is_file()


def text(node: ast.expr) -> str | None:
    """A string in the source, what it is filled with as X."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(text(v) or "X" for v in node.values)
    return None


def messages():
    """Each place in the program that raises a UsageError or logs: room, line, message, remedy."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else None
            name = node.func.id if isinstance(node.func, ast.Name) else name
            if name not in ("UsageError", "refuse", "warning", "FloatingPointError"):
                continue
            parts = [text(part) or "" for part in node.args]
            where = str(path.relative_to(PACKAGE).with_suffix(""))
            if KEY.search("; ".join(parts)):
                yield pytest.param(where, parts, id=f"{where}:{node.lineno}")


def commands_that_print(where: str) -> set[str]:
    rooms = [room for room in PRINTED_BY if f"{where}/".startswith(f"{room}/")]
    return PRINTED_BY[max(rooms, key=len)] if rooms else {*TRAINING, *SAMPLING}


@pytest.mark.parametrize(("where", "parts"), messages())
def test_keys_in_a_message_are_keys_of_the_command_that_prints_it(where, parts):
    for name in commands_that_print(where):
        if name not in SETTINGS:
            continue
        line = COMMANDS[name].message(UsageError(*parts[:2]))
        remedy = REMEDY.split(line, maxsplit=1)[1:]
        for key, value in KEY.findall(" ".join(remedy)):
            known = keys_of(name)
            if "train" in line.split(key)[0].split() or key in OURS:  # another training helps
                known = known | keys_of("train")
            assert key in known or key.startswith("X") or key in OURS, (name, line)
            assert values_fit(key, value), (name, line)


def test_remedies_for_other_programs_words_name_keys_and_choices_that_are_there():
    written = [*table("keys"), *table("choices"), *table("numbers").values()]
    assert all(for_number(group, "1") for group in table("numbers"))
    for template in written:
        for word in template.split():
            key, _, value = word.partition("=")
            assert any(key in keys_of(name) for name in SETTINGS) or key == "hydra.run.dir", word
            assert values_fit(key, value), word


AUGMENT_DIM = {
    ("train", "take fewer, or spacing=linspace"): "it is bad; take fewer steps: preview.sampler.",
    ("explain", "set steps=null"): "it is bad; set sampler.steps=null",
    ("tune", "set steps=null"): "it is bad; set steps=null",
    ("sample", "set dataset.root=FOLDER"): "it is bad; set root=FOLDER",
    ("train", "set dataset.root=FOLDER"): "it is bad; set dataset.root=FOLDER",
    ("sample", "set dataset.test_root=FOLDER"): "it is bad; the data set is the checkpoint",
    ("import", "give it, such as size=32"): "it is bad; give it, such as --size 32",
    ("import", "if you trust it, add trust=mine"): "it is bad; if you trust it, add --trust mine",
    ("export", "if you trust it, add trust=mine"): "it is bad; if you trust it, add --trust mine",
}


@pytest.mark.parametrize(("printed", "answer"), AUGMENT_DIM.items(), ids=str)
def test_each_command_writes_a_remedy_in_its_own_words(printed, answer):
    command, remedy = printed
    assert COMMANDS[command].message(UsageError("it is bad", remedy)).startswith(answer)
