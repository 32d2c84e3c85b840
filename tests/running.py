"""The command as a person starts it, in this process or in one of its own."""

import contextlib
import io
import os
import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from diffgen.cli.config_files import config_dir, searched
from diffgen.cli.main import main
from diffgen.cli.recipe_choice import recipes
from diffgen.config.build import find, names
from diffgen.config.schema import check
from diffgen.runtime.launch import register

NETWORK = (
    "network.width=8",
    "network.groups=4",
    "network.multipliers=[1,2]",
    "network.blocks=1",
    "network.attention=[4]",
)
TINY = (*NETWORK, "trainer.accelerator=cpu", "trainer.batch_size=16", "preview.every=0")


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    status: Any
    out: str
    err: str

    @property
    def folder(self) -> Path:
        """The folder it printed last."""
        return Path(self.out.splitlines()[-1])

    def line(self) -> str:
        """Its one line of complaint."""
        assert "Traceback" not in self.out + self.err
        assert self.err.startswith("diffgen: ")
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("diffgen: ").strip()


def here(folder: Path, *words: str) -> Done:
    """The command in this process, started in a folder."""
    out, err = io.StringIO(), io.StringIO()
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with contextlib.chdir(folder), streams[0], streams[1]:
        try:
            status = main(list(words))
        except SystemExit as stop:
            status = stop.code
    return Done(status, out.getvalue(), err.getvalue())


def there(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The command in a process group of its own, started in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "diffgen", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], seconds: float = 1500) -> Done:
    """The end of a process, which is waited for."""
    out, err = process.communicate(timeout=seconds)
    return Done(process.returncode, out, err)


def worked(done: Done) -> Done:
    assert done.status == 0, done.err + done.out
    return done


def settings(command: str, *overrides: str) -> dict[str, Any]:
    """The configuration that a command would run with, plain data."""
    return tree(command, *overrides).plain


def classes(room: str) -> dict[str, type]:
    """The classes of a room by the names of its choices."""
    return {name: find(room, name) for name in names(room)}


def tree(command: str, *overrides: str, configs: str | None = None) -> Any:
    """The settings that a command would run with; `configs` is its --config-dir."""
    register()
    args = Namespace(config_dir=configs, config_name=None)
    words = [*searched(args), *recipes(command, args).added(overrides)]
    with initialize_config_dir(version_base="1.3", config_dir=config_dir()):
        return check(command, compose(command, overrides=words))


def own_package(folder: Path) -> None:
    """Writes the package `mine` of docs/extending.md into a folder, configs and all."""
    page = Path(__file__).parents[1] / "docs/extending.md"
    files = re.findall(r"^`(mine/\S+)`:\n\n```\w+\n(.*?)^```", page.read_text(), re.M | re.S)
    for name, text in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def contents(path: Path) -> dict[str, Any]:
    """All that a checkpoint file holds."""
    return torch.load(path, weights_only=True)


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equality of nested plain data and tensors, to the last bit."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for k, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}/{k}")
    else:
        assert one == other, where
