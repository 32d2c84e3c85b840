"""Pickles that run something in Python's own unpickler run nothing in any importer."""

import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from diffgen.errors import UsageError
from diffgen.interop.convert import convert
from diffgen.interop.rules import RULES

Call = bytes
START, END = b"\x80\x04", b"."
SETTINGS = {"ddpm-diffusers": {"unet": {}, "scheduler": {}}}
CODE = "open({!r}, 'w').close()"


def plain(value: object) -> bytes:
    """The operations that make plain data."""
    return pickle.dumps(value, 2)[2:-1]


def globals_of(marker: str) -> list[tuple[str, str, tuple[object, ...]]]:
    """Callables, and arguments with which each makes the file or folder `marker`."""
    code = CODE.format(marker)
    return [
        ("builtins", "open", (marker, "w")),
        ("builtins", "exec", (code,)),
        ("builtins", "eval", (code,)),
        ("os", "mkdir", (marker,)),
        ("posix", "system", (f"touch {marker}",)),
        ("os", "popen", (f"touch {marker}",)),
        ("subprocess", "call", (["touch", marker],)),
        ("subprocess", "Popen", (["touch", marker],)),
        ("shutil", "copyfile", ("/dev/null", marker)),
        ("torch", "save", (0, marker)),
    ]


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def called(module: str, name: str, arguments: tuple[object, ...]) -> bytes:
    return named(module, name) + plain(arguments) + b"R"


def stacked(module: str, name: str, arguments: tuple[object, ...]) -> bytes:
    return plain(module) + plain(name) + b"\x93" + plain(arguments) + b"R"


def instance(module: str, name: str, arguments: tuple[object, ...]) -> bytes:
    return b"(" + b"".join(map(plain, arguments)) + f"i{module}\n{name}\n".encode()


def object_of(module: str, name: str, arguments: tuple[object, ...]) -> bytes:
    return b"(" + named(module, name) + b"".join(map(plain, arguments)) + b"o"


def new_object(module: str, name: str, arguments: tuple[object, ...]) -> bytes:
    """A call behind an object of a class."""
    made = named("collections", "OrderedDict") + plain(()) + plain({}) + b"\x92"
    return made + b"0" + called(module, name, arguments)


def in_network(module: str, name: str, arguments: tuple[object, ...]) -> bytes:
    return b"}" + plain("ema") + called(module, name, arguments) + b"s"


def as_key(module: str, name: str, arguments: tuple[object, ...]) -> bytes:
    return b"}" + plain(1) + b"]" + called(module, name, arguments) + b"a" + b"s"


def as_state(module: str, name: str, arguments: tuple[object, ...]) -> bytes:
    made = named("collections", "OrderedDict") + plain(()) + b"R"
    return made + b"}" + plain("x") + called(module, name, arguments) + b"s" + b"b"


def as_storage(module: str, name: str, arguments: tuple[object, ...]) -> bytes:
    """Inside the bytes of a tensor's storage."""
    inside = START + called(module, name, arguments) + END
    loads = named("torch.storage", "_load_from_bytes")
    data = b"B" + len(inside).to_bytes(4, "little") + inside
    return loads + data + b"\x85" + b"R"


PLACES: list[Callable[[str, str, tuple[object, ...]], bytes]] = [
    *(called, stacked, instance, object_of, new_object),
    *(in_network, as_key, as_state, as_storage),
]


def hostile(marker: str) -> list[bytes]:
    """A hundred pickles; the last ten hold code as the source of a class of NVlabs'."""
    found = [START + place(*each) + END for each in globals_of(marker) for place in PLACES]
    rebuild = named("torch_utils.persistence", "_reconstruct_persistent_obj")
    for n in range(10):
        code = f"{CODE.format(marker)}\nclass N{n}: pass"
        meta = {"type": "class", "version": 6, "module_src": code, "class_name": f"N{n}"}
        network = rebuild + b"(" + plain({**meta, "state": {}}) + b"t" + b"R"
        found.append(START + b"}" + plain("ema") + network + b"s" + END)
    return found


def zipped(path: Path, data: bytes) -> Path:
    """As torch.save writes it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return path


def test_they_do_run_in_pythons_own(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for module, name, arguments in globals_of(str(marker)):
        made = pickle.loads(START + called(module, name, arguments) + END)
        getattr(made, "wait", getattr(made, "close", lambda: None))()
        assert marker.exists(), name
        shutil.rmtree(marker) if marker.is_dir() else marker.unlink()


@pytest.mark.parametrize("kind", RULES)
def test_a_hundred_hostile_pickles_run_nothing(kind: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "released"
    pickles = hostile(str(marker))
    assert len(set(pickles)) == 100
    for data in pickles:
        for file in (zipped, lambda path, data: path.write_bytes(data) and path):
            file(path, data)
            with pytest.raises(UsageError) as refused:
                convert(kind, path, 32, SETTINGS.get(kind, {}))
            assert "\n" not in str(refused.value)
            assert not marker.exists()


@pytest.mark.parametrize("kind", RULES)
def test_cut_files_get_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "released"
    whole = pickle.dumps({"ema": {"state": list(range(40))}, "model": {"weight": 0.5}})
    for count in range(len(whole)):
        path.write_bytes(whole[:count])
        with pytest.raises(UsageError):
            convert(kind, path, 32, {})
