"""The wheel works outside the checkout, with its configs."""

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from running import own_package

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def run(*words, cwd, **environment):
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the wheel of this checkout installed into it, built by way of the sdist."""
    dist, site = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), cwd=ROOT)
    (wheel,) = dist.glob("*.whl")
    run(*PIP, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel), cwd=dist)
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert not [
            name
            for name in archive.getnames()
            if re.match(r"[^/]+/runs/", name) or ".venv" in name
        ]
    return site


@pytest.mark.command
def test_the_installed_command_needs_no_checkout(site, tmp_path):
    installed = {"cwd": tmp_path, "PYTHONPATH": str(site)}
    where = run(sys.executable, "-c", "import diffgen; print(diffgen.__file__)", **installed)
    assert where.startswith(str(site))
    version = run(str(site / "bin/diffgen"), "--version", **installed)
    assert version.startswith("diffgen ")
    config = run(str(site / "bin/diffgen"), "train", "--cfg", "job", **installed)
    assert "dataset:\n  name: digits" in config
    sources = run(str(site / "bin/diffgen"), "train", "--info", "searchpath", **installed)
    assert str(ROOT) not in sources
    assert not list(tmp_path.iterdir())


@pytest.mark.command
def test_the_installed_command_trains_and_samples_with_classes_of_ones_own(site, tmp_path):
    diffgen = {"cwd": tmp_path, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    own_package(tmp_path)
    own = ("--config-dir", "mine/configs", "trust=[mine]")
    short = ("trainer.max_steps=1", "trainer.accelerator=cpu", "preview.every=0")
    made = ("network=mlp", "schedule=trig")
    run(str(site / "bin/diffgen"), "train", *own, *made, *short, **diffgen)
    few = ("metrics=[]", "steps=2", "num_samples=2")
    drawn = ("sampler=midpoint", "guidance=rising", "task=same_noise", "task.rows=1")
    told = run(str(site / "bin/diffgen"), "sample", *own, *drawn, *few, **diffgen)
    assert (Path(told.splitlines()[-1]) / "samples.png").is_file()


@pytest.mark.command
def test_every_config_travels(site):
    def names(folder):
        return sorted(path.relative_to(folder) for path in folder.rglob("*.yaml"))

    assert names(site / "diffgen/configs") == names(ROOT / "configs")


def test_nothing_but_the_package_is_installed(site):
    assert {path.name for path in site.iterdir()} - {"bin"} == {
        "diffgen",
        next(site.glob("diffgen-*.dist-info")).name,
    }


SPELT = {"PIL": "pillow", "sklearn": "scikit-learn", "hydra": "hydra-core", "yaml": "pyyaml"}


def test_every_import_is_a_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    stated = [*project["dependencies"], *extras["interop"], *extras["tensorboard"]]
    known = {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in stated}
    used = {
        name.split(".")[0]
        for path in (ROOT / "diffgen").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in imported(node)
    }
    foreign = used - set(sys.stdlib_module_names) - {"diffgen"}
    assert {SPELT.get(name, name).replace("-", "_") for name in foreign} <= known


def imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) else []
