"""The import rule."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "diffgen"

# A room may import rooms of earlier rows only, and itself.
LEVELS = (
    ("errors", "files"),
    ("schedule", "network", "dataset"),
    ("denoiser",),
    ("guidance", "sampler"),
    ("task",),
    ("training", "evaluation"),
    ("config",),
    ("runs", "runtime"),
    ("interop",),
    ("sampling",),
    ("commands", "cli", "__init__", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
TOGETHER = {"files": {"errors"}, "commands": {"cli"}, "cli": {"commands"}, "__main__": {"cli"}}
LIBRARIES = {  # rooms, or files of a room
    "hydra": {"cli", "commands"},
    "lightning": {"training", "runtime", "dataset/datamodule", "commands"},
    "torchmetrics": {"evaluation"},
    "torch_fidelity": {"evaluation"},
    "diffusers": {"interop"},
    "pytorch_lightning": set(),
}
PLUG_INS = {"schedule", "network", "guidance", "sampler", "task", "dataset"}
SHORT = 40  # lines under which a file is part of its only caller


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def file_name(path: Path) -> str:
    """The path below the package, without its ending: `dataset/images`."""
    return str(path.relative_to(PACKAGE).with_suffix(""))


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


def imported_files(path: Path) -> set[Path]:
    """The files of the package that a file imports."""
    found = set()
    for parts in imports(path):
        if parts[0] == "diffgen":
            found |= {file for file in candidates(parts) if file.is_file()}
    return found - {path}


def candidates(parts: list[str]) -> Iterator[Path]:
    """What an import of these dotted parts may mean: a module, or a name in one."""
    whole, outer = ROOT.joinpath(*parts), ROOT.joinpath(*parts[:-1])
    if whole.with_suffix(".py").is_file() or (whole / "__init__.py").is_file():
        yield from (whole.with_suffix(".py"), whole / "__init__.py")
    elif len(parts) > 1:
        yield from (outer.with_suffix(".py"), outer / "__init__.py")


def test_only_four_files_stand_at_the_top():
    loose = {path.stem for path in PACKAGE.glob("*.py")}
    assert loose == {"__init__", "__main__", "errors", "files"}


def test_every_room_has_its_level():
    assert {room(path) for path in sources()} == set(LEVEL)


@pytest.mark.parametrize("name", LEVEL)
def test_a_room_imports_only_rooms_below_it(name):
    above = {}
    for path in sources():
        if room(path) == name:
            used = {parts[1] for parts in imports(path) if parts[0] == "diffgen" and parts[1:]}
            allowed = {other for other, level in LEVEL.items() if level < LEVEL[name]}
            allowed |= {name, "__version__"} | TOGETHER.get(name, set())
            if wrong := used - allowed:
                above[file_name(path)] = wrong
    assert not above


def test_no_files_import_one_another_in_a_circle():
    files = {path: imported_files(path) for path in sources()}
    while free := [path for path, used in files.items() if not used & files.keys()]:
        for path in free:
            del files[path]
    on_no_circle = True
    while on_no_circle:  # nor those that only lead to a circle
        used = set().union(*files.values()) if files else set()
        on_no_circle = [path for path in files if path not in used]
        for path in on_no_circle:
            del files[path]
    assert not sorted(map(file_name, files))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_stays_in_its_rooms(library):
    users = [path for path in sources() for parts in imports(path) if parts[0] == library]
    allowed = LIBRARIES[library]
    assert not {file_name(p) for p in users if not {room(p), file_name(p)} & allowed}


def test_no_two_public_functions_are_the_same():
    found: dict[str, list[str]] = {}
    for path in sources():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                found.setdefault(ast.dump(node), []).append(f"{file_name(path)}.{node.name}")
    assert not [names for names in found.values() if len(names) > 1]


def test_a_short_file_has_two_callers():
    callers: dict[Path, set[Path]] = {path: set() for path in sources()}
    for path in sources():
        for used in imported_files(path):
            callers[used].add(path)
    short = [
        file_name(path)
        for path in sources()
        if room(path) not in PLUG_INS | {"__init__", "__main__", "errors", "files"}
        and path.name != "__init__.py"
        and path.read_text().count("\n") < SHORT
        and len(callers[path]) < 2
        and not named_in_registry(path)
    ]
    assert not short


def named_in_registry(path: Path) -> bool:
    """Whether the table of commands names the file, which no import then does."""
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return f"{dotted}:" in (PACKAGE / "cli" / "registry.py").read_text()


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_short_and_says_what_it_is(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert text.count("\n") < 250
