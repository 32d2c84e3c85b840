"""The plan of a sweep: what Hydra can write, its checkpoint, and what earlier sweeps have done."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from running import here, worked

from diffgen.cli.config_files import config_dir
from diffgen.cli.sweep import Composer, split
from diffgen.config.parse import plain
from diffgen.errors import UsageError
from diffgen.runs import checkpoint as checkpoints
from diffgen.runs import pinned
from diffgen.runtime.launch import register
from diffgen.task.generate import Generate

pytestmark = pytest.mark.usefixtures("cache")

FAST = ("accelerator=cpu", "steps=2", "num_samples=3", "metrics=[]")


@pytest.fixture
def composer():
    """What composes the jobs of `diffgen sample -m`."""
    register()
    with initialize_config_dir(version_base="1.3", config_dir=config_dir()):
        loader = GlobalHydra.instance().config_loader()
        hydra: Hydra = GlobalHydra.instance().hydra
        config = hydra.compose_config("sample", [], run_mode=RunMode.MULTIRUN)
        yield Composer(loader, config)


@pytest.mark.parametrize(
    "job",
    [
        "steps=5 seed=3",
        "sampler=heun steps=5 guidance.weight=1.5",
        "sampler=langevin_celeba sampler.step=0.5 steps=1",
        "ema=raw labels=[1,2] metrics=[]",
        "guidance=autoguidance guidance.checkpoint=a.ckpt guidance.weight=2",
        "task=inpaint task.image=3",
        "sampler={eta: 0.5} +guidance.interval=[0.1,0.9]",
        "~task steps=3",
    ],
)
def test_a_job_is_composed_as_hydra_composes_it(job, composer):
    import shlex

    words = shlex.split(job.replace("{", "'{").replace("}", "}'"))
    try:
        theirs = plain(composer.loader.load_sweep_config(composer.config, words))
    except Exception as error:
        with pytest.raises(type(error)):
            composer(words)
        return
    for _ in range(2):  # the second time from what is kept
        assert plain(composer(words)) == theirs
        composer([*words, "seed=99"])


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("steps=range(5,20,5) seed=choice(1,2)", 6),
        ("sampler=glob(dpmpp_*) guidance.weight=0,1", 6),
        ("labels=[0,1],[2,3] metrics=[],[fid]", 4),
        ("seed=7", 1),
        ("seed=sort(3,1,2) steps=shuffle(1,2) clip=tag(x,choice(none,range))", 12),
        ("sampler.eta=0.0,0.5,1.0 seed=range(0,100)", 300),
    ],
)
def test_whatever_hydra_can_write_is_planned(words, count, composer):
    jobs = split(composer.parser.parse_overrides(words.split()))
    assert len(jobs) == count
    assert len({tuple(job) for job in jobs}) == count


def test_a_range_without_a_list_is_told_how_to_be_written(composer):
    with pytest.raises(UsageError, match=r"list them, as steps=1,2, or give range"):
        split(composer.parser.parse_overrides(["steps=interval(1,5)"]))


@pytest.fixture
def run(ddpm, tmp_path):
    """A run of one's own, without cells, in a folder of runs."""
    folder = tmp_path / "runs" / "digits_ddpm" / "a"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(ddpm / "checkpoints" / "last.ckpt", folder / "checkpoints")
    return folder


def test_a_sweep_that_is_done_draws_nothing_and_starts_no_job(run, tmp_path, monkeypatch):
    words = ("sample", "-m", f"checkpoint={run}", *FAST)
    worked(here(tmp_path, *words, "seed=0,1"))
    monkeypatch.setattr(Generate, "__call__", lambda *_: 1 / 0)
    done = worked(here(tmp_path, *words, "seed=1,0"))
    assert "2 of 2 jobs are done already" in done.err
    assert sorted(path.name for path in done.folder.iterdir() if path.is_dir()) == ["0", "1"]
    assert (done.folder / "1" / "samples.npz").is_file()
    stopped = here(tmp_path, *words, "seed=0,5,1")
    assert stopped.status == 1
    assert stopped.err.splitlines()[-1].startswith("diffgen: 1 of 3 jobs failed")
    folder = Path(stopped.out.splitlines()[-1])
    assert "ZeroDivisionError" in (tmp_path / folder / "table.md").read_text()
    (failed,) = csv.DictReader((tmp_path / folder / "table.csv").open(newline=""))
    assert (failed["seed"], failed["steps"], failed["sampler"]) == ("5", "2", "")
    assert "ZeroDivisionError" in failed["reason"]
    again = worked(here(tmp_path, "table", str(folder)))
    assert "ZeroDivisionError" in again.out
    assert json.loads((tmp_path / folder / "2" / "failed.json").read_text())["settings"]
    assert len(list((tmp_path / folder).glob("*/samples.png"))) == 2


def test_values_that_differ_by_job_are_each_jobs_own(run, tmp_path):
    """${seed} is not that of the first job, and a number stays with its job where others go."""
    words = ("sample", "-m", f"checkpoint={run}", "steps=1,2", *FAST[2:], "accelerator=cpu")
    worked(here(tmp_path, *words, "seed=${hydra:job.num}", "labels=${seed}"))
    wider = (*words[:3], "steps=3,1,2,4", *words[4:])
    done = worked(here(tmp_path, *wider, "seed=${hydra:job.num}", "labels=${seed}"))
    assert "2 of 4 jobs" not in done.err  # other seeds than before
    rows = [json.loads(file.read_text()) for file in run.glob("cells/*/result.json")]
    found = {(row["steps"], row["seed"], int(row["labels"][0])) for row in rows}
    assert found == {(1, 0, 0), (2, 1, 1), (3, 0, 0), (1, 1, 1), (2, 2, 2), (4, 3, 3)}


def test_a_sweep_stays_with_the_content_it_began_with(run, ncsnv2, tmp_path, monkeypatch):
    """A training may put another checkpoint in its place, or start a newer run."""
    path, draw = run / "checkpoints" / "last.ckpt", Generate.__call__

    def call(self, images, device):
        shutil.copy(ncsnv2 / "checkpoints" / "last.ckpt", path)
        return draw(self, images, device)

    monkeypatch.setattr(Generate, "__call__", call)
    words = ("sample", "-m", "checkpoint=latest", *FAST, "seed=0,1")
    worked(here(tmp_path, *words))
    rows = [json.loads(file.read_text()) for file in run.glob("cells/*/result.json")]
    assert len(rows) == 2
    assert len({row["checkpoint_hash"] for row in rows}) == 1


def test_another_process_refuses_content_that_was_replaced(run, ncsnv2):
    path = run / "checkpoints" / "last.ckpt"
    name = pinned.pinned(str(run), Path("runs"))
    assert pinned.pinned(name, Path("runs")) == name
    assert pinned.open_checkpoint(name, Path("runs")).hash == checkpoints.load(path).hash
    shutil.copy(ncsnv2 / "checkpoints" / "last.ckpt", path)
    pinned._of_content.cache_clear()
    with pytest.raises(UsageError, match="was replaced"):
        pinned.open_checkpoint(name, Path("runs"))


def test_sweeps_of_a_configuration_are_planned(run, tmp_path):
    """`hydra.sweeper.params` holds a sweep, too."""
    file = tmp_path / "conf" / "experiment" / "seeds.yaml"
    file.parent.mkdir(parents=True)
    text = "# @package _global_\nhydra: {sweeper: {params: {seed: '0,VALUE'}}}\n"
    words = ("--config-dir", str(tmp_path / "conf"), "+experiment=seeds")
    file.write_text(text.replace("VALUE", "x"))
    wrong = here(tmp_path, "sample", "-m", f"checkpoint={run}", *FAST, *words)
    assert wrong.status == 2
    assert "seed=x" in wrong.line()
    file.write_text(text.replace("VALUE", "1"))
    done = worked(here(tmp_path, "sample", "-m", f"checkpoint={run}", *FAST, *words))
    assert "2 jobs (seed 2)" in done.err
