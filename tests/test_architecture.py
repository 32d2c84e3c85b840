"""The import rule."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "diffgen"

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
