"""Files made to run code, hang or take all memory are refused: a part of scripts/hostile.py."""

import importlib.util
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def hostile() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hostile", ROOT / "scripts/hostile.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["checkpoint", "import"])
def test_no_file_runs_code_hangs_or_takes_all_memory(kind, hostile, ddpm, tmp_path):
    good = ddpm / "checkpoints" / "last.ckpt"
    make, read = hostile.KINDS[kind]
    if kind == "checkpoint":
        assert hostile.outcome(read, good)[0] == "read"
    found = {}
    for k, (name, write) in enumerate(make(tmp_path, 10, random.Random(1), good)):
        path = tmp_path / f"{k}.ckpt"
        write(path)
        found[name], *_ = hostile.outcome(read, path)
    assert len(found) > 40
    assert found.pop("sound", "read") == "read"
    assert not (tmp_path / "ran").exists()
    cases = {name: what for name, what in found.items() if name.startswith("case ")}
    assert set(cases.values()) <= {"read", "refused"}
    others = {name: what for name, what in found.items() if name not in cases}
    assert {name for name, what in others.items() if what != "refused"} == set()


def test_numbers_and_shapes_are_those_that_torch_reads(tmp_path):
    from running import assert_same

    from diffgen.runs.torch_file import read

    whole = torch.arange(24, dtype=torch.float64).view(2, 3, 4)
    kinds = [whole.to(kind) for kind in (torch.bfloat16, torch.int64, torch.bool, torch.uint8)]
    data = {"a": whole, "t": whole.mT, "part": whole[:, 1:, ::2], "kinds": kinds, 3: (1, None)}
    data |= {"empty": torch.empty(0, 3), "number": torch.tensor(2.5), "text": "猫", "yes": True}
    for zipped in (True, False):
        torch.save(data, tmp_path / "x", _use_new_zipfile_serialization=zipped)
        found = read(tmp_path / "x")
        assert list(found) == list(data)
        assert read(tmp_path / "x", None)["part"].stride == whole[:, 1:, ::2].stride()
        assert_same(found, torch.load(tmp_path / "x", weights_only=True))


def test_a_checkpoint_that_asks_for_too_much_is_refused_before_torch_is_imported(tmp_path):
    nested = ["lol"] * 10
    for _ in range(12):
        nested = [nested] * 10
    torch.save({"diffgen": nested, "weights": torch.ones(2)}, tmp_path / "x.ckpt")
    script = (
        "import sys; from diffgen.cli.main import main; status = main(sys.argv[1:]); "
        "sys.exit(status if 'torch' not in sys.modules else 'torch was imported')"
    )
    for words in ("sample checkpoint", "train resume"):
        command = [sys.executable, "-c", script, *f"{words}={tmp_path / 'x.ckpt'}".split()]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "x.ckpt is not read: it nests its values deeper than 64" in done.stderr
