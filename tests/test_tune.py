"""`diffgen tune` as a person runs it, and spacing=tuned, which samples at what it found."""

import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from running import Done, here, tree, worked

from diffgen.commands.tune import show
from diffgen.errors import UsageError
from diffgen.runs import tuned_times
from diffgen.sampling.request import request_of
from diffgen.schedule import spacing

pytestmark = pytest.mark.usefixtures("cache")

FEW = ("num_samples=8", "candidates=10")
SAMPLE = ("metrics=[]", "num_samples=4", "spacing=tuned")


def tune(folder: Path, run: Path, *words: str) -> Done:
    return here(folder, "tune", f"checkpoint={run}", *FEW, *words)


def sample(folder: Path, run: Path, *words: str) -> Done:
    return here(folder, "sample", f"checkpoint={run}", *SAMPLE, *words)


def times(run: Path, *words: str) -> torch.Tensor:
    return request_of(tree("sample", f"checkpoint={run}", *SAMPLE, *words)).plan.times


@pytest.fixture(scope="module")
def run(ddpm, tmp_path_factory):
    """A copy of the trained run, so that files may be spoilt."""
    return Path(shutil.copytree(ddpm, tmp_path_factory.mktemp("tuned") / "run"))


@pytest.fixture(scope="module")
def swept(run, tmp_path_factory, cache):
    """The sweep of two samplers at two numbers of steps."""
    words = ("-m", "sampler=ddim,dpmpp_2m", "steps=4,5")
    return worked(tune(tmp_path_factory.mktemp("sweep"), run, *words))


def test_a_sweep_keeps_the_times_of_every_job(swept, run):
    kept = [yaml.safe_load(path.read_text()) for path in (run / "tuned").iterdir()]
    ways = {(told["way"]["sampler"]["name"], told["way"]["steps"]) for told in kept}
    assert ways == {(name, steps) for name in ("ddim", "dpmpp_2m") for steps in (4, 5)}
    for told in kept:
        assert (
            told["checkpoint"] == request_of(tree("sample", f"checkpoint={run}")).checkpoint.hash
        )
        assert told["nfe"] == told["way"]["steps"]
        assert told["error"].keys() == {*spacing.SPACINGS, "tuned"}
        assert told["error"]["tuned"] <= 1.05 * min(told["error"].values())


def test_the_table_tells_every_spacing_and_the_file_comes_last(swept, run):
    for name in (*spacing.SPACINGS, "tuned", "ddim, 4 steps", "dpmpp_2m, 5 steps"):
        assert name in swept.out
    assert Path(swept.out.splitlines()[-1]).is_file()


def test_the_table_tells_what_each_spacing_costs(capsys):
    """Heun's steps are not of one price."""
    show("heun, 3 steps", {"trailing": (0.3, 5.0), "linspace": (0.2, 4.0), "tuned": (0.1, 5.0)})
    heads, *lines = capsys.readouterr().out.splitlines()[2:]
    assert "NFE" in heads
    found = [line.replace("│", " ").split() for line in lines]
    assert [row[:2] for row in found if row[0] in ("trailing", "linspace", "tuned")] == [
        *(["trailing", "5"], ["linspace", "4"], ["tuned", "5"]),
    ]


def test_tuned_is_sampled_at_its_times(swept, run, tmp_path):
    found = times(run, "sampler=ddim", "steps=5")
    told = yaml.safe_load(next((run / "tuned").glob("last_ddim_5_*")).read_text())
    assert found.tolist() == told["times"]
    assert (found[-1], len(found)) == (0, 6)
    worked(sample(tmp_path, run, "sampler=ddim", "steps=5"))


@pytest.mark.parametrize(
    ("noisy", "still"),
    {
        ("sampler=ddim", "sampler.eta=0.5"): ("sampler=ddim",),
        ("sampler=dpmpp_2m_sde",): ("sampler=dpmpp_2m_sde", "sampler.eta=0"),
        ("sampler=euler", "sampler.churn=9"): ("sampler=euler",),
        ("sampler=heun", "sampler.churn=9"): ("sampler=heun",),
    }.items(),
    ids=str,
)
def test_fresh_noise_is_off_while_times_are_tuned(noisy, still, run, tmp_path):
    """So a noisy sampler and the same without its noise share their times."""
    answer = sample(tmp_path, run, *noisy, "steps=2").line()
    command = shlex.split(answer.split("; run diffgen ")[1])
    kept = Path(worked(here(tmp_path, *command, *FEW)).out.splitlines()[-1])
    for way in (noisy, still):
        assert times(run, *way, "steps=2").tolist() == yaml.safe_load(kept.read_text())["times"]
    way = request_of(tree("sample", f"checkpoint={run}", *SAMPLE, *noisy, "steps=2"))
    assert way.plan.sampler != way.plan.sampler.deterministic(), "sampling has lost its noise"
    worked(sample(tmp_path, run, *noisy, "steps=2"))


ABSENT = {
    ("sampler=ddim", "steps=7"): "sampler=ddim steps=7",
    ("sampler=ddim", "steps=5", "guidance.weight=1"): "sampler=ddim steps=5 guidance.weight=1",
    ("sampler=ddim", "steps=5", "ema=quick"): "ema=quick sampler=ddim steps=5",
    ("sampler=unipc", "sampler.order=2", "steps=5"): "sampler=unipc sampler.order=2 steps=5",
}


@pytest.mark.parametrize(("words", "command"), ABSENT.items(), ids=lambda v: str(v))
def test_absent_times_are_answered_with_the_command_that_makes_them(
    words, command, swept, run, tmp_path
):
    done = sample(tmp_path, run, *words)
    assert done.status == 2
    told = f"no tuned times for this way of sampling; run diffgen tune checkpoint={run}"
    assert done.line().startswith(told)
    assert done.line().endswith(command)


UNTUNABLE = {
    ("sampler=ddpm", "steps=5"): "this sampler draws noise",
    ("sampler=rk45",): "this sampler chooses its own steps",
    ("sampler=ddim", "sampler.steps=null"): "spacing=tuned needs a number of steps=",
}


@pytest.mark.parametrize(("words", "answer"), UNTUNABLE.items(), ids=lambda v: str(v))
def test_samplers_without_times_to_tune_are_told_so(words, answer, ddpm, tmp_path):
    done = sample(tmp_path, ddpm, *words)
    assert done.status == 2
    assert done.line().startswith(answer)


WAYS = {
    "sampler": ("sampler=unipc", "sampler.order=1", "sampler.corrector=false", "clip=none"),
    "weight": ("guidance.weight=0.5",),
    "interval": ("guidance.weight=1", "guidance.interval=[0,50]"),
    "none": ("guidance=none",),
    "elsewhere": ("runs=my runs", "checkpoint=latest"),
    "weak": ("guidance=autoguidance", "guidance.checkpoint=my runs/a/b", "guidance.weight=0"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_command_in_the_answer_mends_it(way, run, tmp_path):
    """As a shell reads it; nothing that sampling is told is lost on the way."""
    shutil.copytree(run, tmp_path / "my runs/a/b", ignore=shutil.ignore_patterns("tuned"))
    words = ("sampler=ddim", "steps=2", *way)
    answer = sample(tmp_path, run, *words).line()
    command = shlex.split(answer.split("; run diffgen ")[1])
    worked(here(tmp_path, *command, *FEW))
    worked(sample(tmp_path, run, *words))


def test_times_of_other_weights_and_damaged_ones_are_refused(swept, run, tmp_path):
    path = next((run / "tuned").glob("last_dpmpp_2m_4_*"))
    told = yaml.safe_load(path.read_text())
    for spoilt, answer in (
        ({**told, "checkpoint": "0" * 64}, "was tuned for other weights; run diffgen tune"),
        ({**told, "times": told["times"][:-1]}, "holds no falling times"),
        ({**told, "times": "soon"}, "is damaged"),
        ({}, "is damaged"),
    ):
        path.write_text(yaml.safe_dump(spoilt))
        done = sample(tmp_path, run, "sampler=dpmpp_2m", "steps=4")
        assert done.status == 2
        assert answer in done.line()
    laughs = "".join(f"- &x{k} [{', '.join([f'*x{k - 1}'] * 9)}]\n" for k in range(1, 12))
    key = {"sampler": {"name": "ddim"}, "steps": 2}
    known: Any = SimpleNamespace(path=run / "x.ckpt", run=run, hash="h")
    for text in (f"checkpoint: h\ntimes:\n- &x0 [1.0]\n{laughs}", "[" * 10**5, "x" * 10**7):
        path = tuned_times.path_of(known, key)
        path.write_text(text)
        with pytest.raises(UsageError, match="is damaged; run remedy"):
            tuned_times.read(known, key, tmp_path, "remedy")


REFUSALS = {
    ("sampler=ddpm",): "this sampler draws noise, and only one that draws none",
    ("sampler=pc",): "this sampler draws noise",
    ("sampler=rk45", "sampler.steps=null"): "this sampler chooses its own steps",
    ("steps=50",): "steps=50 of candidates=10 times: take fewer steps",
    ("sampler.steps=null",): "steps=None of candidates=10 times",
    ("steps=null",): "steps=None of candidates=10 times",
    ("spacing=karras",): "no key 'spacing'",
}


@pytest.mark.parametrize(("words", "answer"), REFUSALS.items(), ids=lambda v: str(v))
def test_what_cannot_be_tuned_gets_one_line(words, answer, ddpm, tmp_path, monkeypatch):
    monkeypatch.setattr("diffgen.sampler.tuned.solved", lambda *_: 1 / 0)  # before any work
    done = tune(tmp_path, ddpm, *words)
    assert done.status == 2
    assert done.line().startswith(answer)
    assert not (ddpm / "tuned").exists()
