"""Classes of a user's own package, that of docs/extending.md, in every command."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from running import contents, here, own_package, worked

import diffgen
from diffgen.errors import UsageError

OWN = ("--config-dir", "mine/configs", "trust=[mine]")
SHORT = ("trainer.max_steps=2", "trainer.accelerator=cpu", "preview.every=0")
FEW = ("steps=2", "metrics=[]")
REFUSED = "=mine.schedules:Trig is code outside diffgen; if you trust it, add trust=mine"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cache):
    """Where the package stands and its commands run."""
    folder = tmp_path_factory.mktemp("own")
    own_package(folder)
    before = list(sys.path)
    yield folder
    sys.path[:] = before
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def run(folder) -> Path:
    """A training with a schedule and a network of one's own."""
    words = ("network=mlp", "schedule=trig", *SHORT)
    return worked(here(folder, "train", *OWN, *words)).folder


def test_a_checkpoint_of_own_classes_loads_where_it_is_trusted(folder, run, monkeypatch):
    monkeypatch.chdir(folder)
    denoiser, schedule, _ = diffgen.load(run, trust=["mine"])
    assert type(schedule).__module__ == "mine.schedules"
    x = torch.zeros(2, 1, 8, 8)
    assert denoiser(x, torch.tensor(0.5), torch.tensor([1, 10])).shape == x.shape
    with pytest.raises(UsageError, match=REFUSED):
        diffgen.load(run)


def test_a_checkpoint_does_not_say_itself_what_is_trusted(run):
    recipe = contents(run / "checkpoints/last.ckpt")["diffgen"]["recipe"]
    assert recipe["network"] == {"name": "mine.networks:Mlp", "width": 256}
    assert "trust" not in recipe


LINES = {
    "sweep": "sample -m sampler=midpoint,heun guidance=rising num_samples=3",
    "task": "sample task=same_noise task.rows=1",
    "tune": "tune sampler=midpoint num_samples=4 steps=3 candidates=6",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_each_works_with_trust_and_is_refused_without(line, folder, run):
    command, *words = line.split()
    if command == "sample":
        words += FEW
    known = ("--config-dir", "mine/configs", f"checkpoint={run}", *words)
    worked(here(folder, command, *known, "trust=mine"))
    assert here(folder, command, *known).line().endswith(REFUSED.partition("Trig")[2])


def test_the_command_that_tunes_an_own_sampler_works_as_printed(folder, run):
    words = ("sampler=midpoint", "guidance=rising", "guidance.weight=2", "num_samples=3")
    tuned = ("sample", *OWN, f"checkpoint={run}", *words, *FEW, "spacing=tuned")
    printed = shlex.split(here(folder, *tuned).line().partition("; run diffgen ")[2])
    worked(here(folder, *printed, "num_samples=4", "candidates=6"))
    worked(here(folder, *tuned))


def test_a_training_is_resumed_with_trust(folder, run):
    resumed = ("train", f"resume={run}", "trainer.max_steps=3")
    assert here(folder, *resumed).line().endswith("add trust=mine")
    worked(here(folder, *resumed, "trust=[mine]"))
    assert contents(folder / run / "checkpoints/last.ckpt")["global_step"] == 3


def test_explain_and_a_data_set_of_ones_own(folder, run):
    samples = worked(here(folder, "sample", *OWN, f"checkpoint={run}", "num_samples=40", *FEW))
    words = ("dataset=npz", f"dataset.root={samples.folder}/samples.npz", "network=mlp")
    assert "npz, 1 x 8 x 8, 10 classes" in worked(here(folder, "explain", *OWN, *words)).out
    trained = worked(here(folder, "train", *OWN, *words, *SHORT)).folder
    assert trained.parent.name == "Npz_ddpm"
    scored = ("num_samples=2", "steps=2", "features=classifier", "metrics=[accuracy]")
    worked(here(folder, "sample", f"checkpoint={trained}", "trust=[mine]", *scored))


def test_help_lists_own_choices(folder):
    page = worked(here(folder, "sample", *OWN[:2], "--help", "sampler")).out
    assert re.search("midpoint +The midpoint rule in log-SNR.", page)
