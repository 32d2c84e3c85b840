"""`diffgen train` as a person runs it: learning, resuming, devices, signals, refusals."""

import csv
import os
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import lightning.pytorch.loggers.wandb
import pytest
import torch
from PIL import Image
from running import NETWORK, TINY, assert_same, contents, ended, here, there, worked
from torch import nn

from diffgen.commands.resume import naming
from diffgen.dataset.digits import Digits
from diffgen.errors import UsageError
from diffgen.runs.checkpoint_format import seal
from diffgen.training.module import check_weights_agree

pytestmark = pytest.mark.usefixtures("cache")

# With a large epsilon Adam's first steps are smooth in the gradient: without it they are its
# sign, and rounding alone would move a weight by twice the rate.
SMOOTH = (
    *("optimizer.eps=1e-3", "optimizer.lr=1e-3"),
    *("optimizer.warmup=2", "optimizer.decay=constant"),
)
SIX = (*TINY, *SMOOTH, "trainer.max_steps=6", "trainer.log_every=1")
UNEASY = ("network.dropout=0.3", "trainer.accumulate=2", "optimizer.decay=cosine")
CONTINUED = ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step")


def last(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


def log_of(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


def train(folder: Path, *words: str) -> Path:
    """The folder of a run made in this process."""
    return folder / worked(here(folder, "train", *words)).folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory, cache):
    """A run of six steps on one device."""
    return train(tmp_path_factory.mktemp("plain"), *SIX)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, cache):
    """A run of six steps that kept its third, with dropout, accumulation and a falling rate."""
    folder = tmp_path_factory.mktemp("unbroken")
    drawing = ("preview.every=3", "preview.num_samples=4", "preview.sampler.steps=2")
    return train(folder, *SIX, *UNEASY, *drawing, "trainer.snapshot_every=3")


@pytest.fixture(scope="module")
def processes(tmp_path_factory, unbroken, plain):
    """The runs that need processes of their own, all started at once."""
    folder = tmp_path_factory.mktemp("processes")
    copy = shutil.copytree(unbroken, folder / "broken")
    (copy / "checkpoints" / "last.ckpt").unlink()
    endless = (*TINY, "trainer.max_steps=100000", "trainer.log_every=1")
    words = {
        "resumed": (f"resume={copy}/checkpoints/step_0000003.ckpt",),
        "two devices": (*SIX, "trainer.devices=2"),
        "SIGTERM": (*endless, "runs=sigterm"),
        "SIGINT": (*endless, "runs=sigint"),
        "SIGTERM to two": (
            *(*endless, "runs=sigterm2"),
            *("trainer.devices=2", "trainer.accumulate=2"),
        ),
    }
    started = {name: there(folder, "train", *given) for name, given in words.items()}
    yield SimpleNamespace(folder=folder, copy=copy, **{"of": started})
    for process in started.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_it_learns(ddpm):
    losses = [float(row["loss"]) for row in log_of(ddpm)]
    assert losses[0] > 0.8
    assert losses[-1] < 0.6 * losses[0]


def test_the_log_tells_losses_by_level_speed_and_rate(plain):
    rows = log_of(plain)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        levels = {key: float(v) for key, v in row.items() if key.startswith("loss/t") and v}
        assert min(levels.values()) <= float(row["loss"]) <= max(levels.values())
        assert float(row["images_per_second"]) > 0
    rates = [float(row["lr"]) for row in rows]  # of the step to come
    assert rates == pytest.approx([1e-3, *[1e-3] * 5])


def test_sample_grids_are_drawn_on_the_way_and_at_the_end(unbroken):
    pictures = sorted((unbroken / "previews").iterdir())
    assert [path.name for path in pictures] == ["step_0000003.png", "step_0000006.png"]
    with Image.open(pictures[0]) as image:
        assert image.getextrema()[0] < image.getextrema()[1]


def test_resuming_goes_on_bit_for_bit(processes, unbroken):
    done = worked(ended(processes.of["resumed"]))
    assert done.folder == processes.copy
    straight, resumed = contents(last(unbroken)), contents(last(processes.copy))
    for key in CONTINUED:
        assert_same(resumed[key], straight[key], key)
    assert straight["global_step"] == 6
    ours, theirs = straight["diffgen"]["recipe"], resumed["diffgen"]["recipe"]
    assert {**theirs, "resume": None} == ours


def test_the_log_goes_on_where_it_was(processes, unbroken):
    ended_once(processes.of["resumed"])
    rows, before = log_of(processes.copy), log_of(unbroken)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in rows] == [row["loss"] for row in before]


def ended_once(process):
    process.wait(500)


def test_resume_auto_takes_the_newest_run_of_the_same_settings(tmp_path):
    constant = (*TINY, "logger=none", "optimizer.decay=constant")  # else its end moves the rate
    words = (*constant, "resume=auto")
    first = train(tmp_path, *words, "trainer.max_steps=2")
    other = train(tmp_path, *words, "trainer.max_steps=2", "seed=5")
    assert other != first
    again = train(tmp_path, *words, "trainer.max_steps=4")
    assert again == first
    assert contents(last(first))["global_step"] == 4
    assert len(list(tmp_path.glob("runs/*/*"))) == 2
    whole = train(tmp_path, *constant, "trainer.max_steps=4")
    for key in ("state_dict", "ema", "optimizer_states"):
        assert_same(contents(last(first))[key], contents(last(whole))[key])


def test_resume_auto_passes_over_a_damaged_run_and_names_it(tmp_path):
    words = (*TINY, "resume=auto", "logger=none", "trainer.max_steps=1")
    good = train(tmp_path, *words)
    bad = good.with_name("bad") / "checkpoints" / "last.ckpt"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(last(good).read_bytes()[:-100])
    done = worked(here(tmp_path, "train", *words, "trainer.max_steps=2"))
    assert tmp_path / done.folder == good
    assert contents(last(good))["global_step"] == 2
    assert f"leaves out a run: {bad.relative_to(tmp_path)} is truncated" in done.out
    assert "is finished" not in done.out


@pytest.mark.parametrize("word", ["resume=auto", "resume={}"], ids=["auto", "path"])
def test_going_on_with_a_finished_run_says_so(word, plain, tmp_path):
    copy = shutil.copytree(plain, tmp_path / "runs/digits_ddpm/copy")
    done = worked(here(tmp_path, "train", *SIX, "logger=none", word.format(copy)))
    assert "digits_ddpm/copy is finished: step 6 of 6; give trainer.max_steps=" in done.out
    assert (tmp_path / done.folder).samefile(copy)


def test_a_setting_that_contradicts_the_recipe_is_refused(plain, tmp_path):
    before = last(plain).read_bytes()
    for word in ("optimizer.lr=0.5", "seed=3", "network.dropout=0.5", "model=ncsnv2"):
        done = here(tmp_path, "train", f"resume={plain}", word)
        assert done.status == 2
        assert "contradicts the checkpoint's" in done.line()
    assert last(plain).read_bytes() == before


def test_what_does_not_change_the_run_may_change(plain, tmp_path):
    copy = shutil.copytree(plain, tmp_path / "copy")
    words = (f"resume={copy}", "trainer.max_steps=8", "trainer.log_every=2", "logger=none")
    assert train(tmp_path, *words, "trainer.accumulate=4") == copy
    assert contents(last(copy))["global_step"] == 8
    assert contents(last(copy))["diffgen"]["recipe"]["trainer"]["accumulate"] == 4
    assert [int(row["step"]) for row in log_of(copy)] == [1, 2, 3, 4, 5, 6]
    assert not list(tmp_path.glob("runs/*"))
    log = (copy / "train.log").read_text()
    assert log.index("max_steps=6") < log.index("max_steps=8")


def test_reduced_precision_and_another_layout_learn_alike(plain, tmp_path):
    """In bfloat16 each loss is within its rounding of float32's; weights stay float32."""
    words = ("trainer.precision=bf16-mixed", "channels_last=true")
    run = train(tmp_path, *SIX, *words)
    mine, theirs = ([float(row["loss"]) for row in log_of(r)] for r in (run, plain))
    assert mine == pytest.approx(theirs, rel=0.02)
    assert mine != theirs
    assert {w.dtype for w in contents(last(run))["state_dict"].values()} == {torch.float32}


def test_the_network_that_trains_is_compiled_on_request(plain, tmp_path, monkeypatch):
    """By a compiler that changes nothing: the real one takes minutes."""
    compiled, call = [], nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self: compiled.append(self) or call(self, backend="eager")
    )
    run = train(tmp_path, *SIX, "compile=true")
    assert [type(network).__name__ for network in compiled] == ["UNet"]
    assert_close(run, plain)


def assert_close(one: Path, other: Path):
    """Equal but for sums in another order: float32's 1e-7 of a gradient of 1, over epsilon."""
    for key in ("state_dict", "ema"):
        mine, theirs = flat(contents(last(one))[key]), flat(contents(last(other))[key])
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-6)


def flat(tree):
    if isinstance(tree, torch.Tensor):
        return tree.flatten()
    return torch.cat([flat(tree[key]) for key in sorted(tree)])


def test_accumulation_changes_nothing_but_rounding(plain, tmp_path):
    assert_close(train(tmp_path, *SIX, "trainer.accumulate=2"), plain)


def test_two_devices_are_one_and_agree(processes, plain):
    done = worked(ended(processes.of["two devices"]))
    run = processes.folder / done.folder
    assert_close(run, plain)
    (mine,) = agreed(run / "train.log")
    assert agreed(run / "train-rank1.log") == [mine]
    assert done.out.count("step 6/6") == 1


def agreed(log):
    lines = log.read_text().splitlines()
    return [x.split("] ")[-1] for x in lines if "all 2 devices hold the same weights" in x]


def test_devices_that_disagree_are_an_error():
    module = nn.Linear(2, 2)
    module.device = torch.device("cpu")
    other = SimpleNamespace(all_gather=lambda mine: torch.stack([mine, mine + 1]))
    same = SimpleNamespace(all_gather=lambda mine: torch.stack([mine, mine]))
    check_weights_agree(SimpleNamespace(world_size=2, strategy=same), module)
    with pytest.raises(RuntimeError, match="2 devices ended with different weights"):
        check_weights_agree(SimpleNamespace(world_size=2, strategy=other), module)


@pytest.mark.parametrize(
    ("name", "runs", "number", "status"),
    [
        ("SIGTERM", "sigterm", signal.SIGTERM, 143),
        ("SIGINT", "sigint", signal.SIGINT, 130),
        ("SIGTERM to two", "sigterm2", signal.SIGTERM, 143),
    ],
    ids=["SIGTERM", "Ctrl-C", "SIGTERM to all of two devices"],
)
def test_a_signal_saves_and_exits_with_its_status(processes, name, runs, number, status):
    process = processes.of[name]
    run = under_way(processes.folder / runs, process)
    os.killpg(process.pid, number)
    done = ended(process, 60)
    assert done.status == status, done.err
    assert "Traceback" not in done.err
    saved = contents(last(run))
    logged = int(log_of(run)[-1]["step"])
    assert logged <= saved["global_step"] <= logged + 1
    assert saved["optimizer_states"][0]["state"][0]["step"] == saved["global_step"]


def under_way(runs: Path, process) -> Path:
    """The folder of a run that has logged a step."""
    for _ in range(5000):
        found = list(runs.glob("*/*/metrics.csv"))
        if found and len(log_of(found[0].parent)) > 1:
            return found[0].parent
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("no step in time")


REFUSALS = {
    "trainer.max_steps=0": "trainer.max_steps=0: input should be greater than 0",
    "trainer.batch_size=-1": "trainer.batch_size=-1: input should be greater than 0",
    "trainer.accumulate=3": "trainer.batch_size=16 cannot be shared out evenly",
    "trainer.precision=64": "trainer.precision=64: input should be '32-true'",
    "trainer.precision=16-mixed": "trainer.precision=16-mixed needs a GPU; set trainer.",
    "trainer.accelerator=cuda": "no trainer.accelerator=cuda with trainer.devices=1 here (",
    "trainer.accelerator=abacus": "no trainer.accelerator=abacus with trainer.devices=1 here (You",
    "trainer.devices=999": "trainer.devices=999 is more processes than the ",
    "trainer.save_every=0": "trainer.save_every=0: input should be greater than 0",
    "optimizer.lr=fast": "optimizer.lr=fast: input should be a valid number",
    "optimizer.betas=[0.9,1.5]": "optimizer.betas.1=1.5: input should be less than 1",
    "model.label_dropout=1.0": "model.label_dropout=1.0: input should be less than 1",
    "prediction=noise": "no prediction 'noise'",
    "ema.average.decay=2": "ema.<name>.decay=2.0: it must lie between 0 and 1",
    "preview.every=often": "preview.every=often: input should be a valid integer",
    "schedule.levels=some": "schedule.levels=some: input should be a valid integer",
    "+logger.colour=red": "no logger.colour for logger=csv",
    "resume=nowhere": "no checkpoint at nowhere",
}


@pytest.mark.parametrize(("word", "answer"), REFUSALS.items(), ids=REFUSALS)
def test_a_wrong_setting_gets_one_line(word, answer, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    done = here(tmp_path, "train", *TINY, "trainer.max_steps=1", word)
    assert done.status == 2
    assert done.line().startswith(answer)
    assert not list(tmp_path.rglob("*.ckpt"))
    assert all(log.stat().st_size for log in tmp_path.rglob("train.log"))  # none of a job unbegun


def test_the_training_set_is_read_once(tmp_path, monkeypatch):
    read, split = [], Digits.split
    monkeypatch.setattr(Digits, "split", lambda *of: read.append(of) or split(*of))
    for words in ((), ("model=ncsnv2", "schedule=ncsnv2")):
        read.clear()
        train(tmp_path, *TINY, *words, "trainer.max_steps=1", "logger=none")
        assert len(read) == 1


def test_a_remedy_of_a_resumed_run_names_the_data_set_too():
    """Its root is a key of that data set alone, which is not the one that is set without."""
    remedy = r"^gone; set dataset=folder dataset\.root=PATH$"
    with pytest.raises(UsageError, match=remedy), naming("folder"):
        raise UsageError("gone", "set dataset.root=PATH")


def test_a_missing_data_set_is_one_line_that_says_what_goes_where(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise URLError("no network here")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", offline)
    done = here(tmp_path, "train", "dataset=mnist", "dataset.root=nowhere")
    assert done.status == 2
    assert done.line().startswith(f"mnist can neither be read from {tmp_path}/nowhere nor down")
    assert "train-images-idx3-ubyte" in done.line()
    assert "set dataset.root" in done.line()
    done = here(tmp_path, "train", "dataset=folder", "dataset.root=away")
    assert done.status == 2
    assert done.line() == f"no folder or zip of images at {tmp_path}/away; set dataset.root=PATH"


@pytest.mark.parametrize("command", ["train", "explain"])
def test_images_that_are_not_square_are_refused_with_the_remedy(command, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.new("L", (24, 16)).save(tmp_path / f"photos/{name}.png")
    words = (*NETWORK, "dataset=folder", "dataset.root=photos", "dataset.test_fraction=0")
    done = here(tmp_path, command, *words, "trainer.max_steps=1", "preview.every=0")
    assert done.status == 2
    assert done.line().startswith(
        "the images of photos are 24x16, and networks need square ones; dataset.size=16 keeps"
    )
    done = here(
        tmp_path, command, *words, "trainer.max_steps=1", "preview.every=0", "dataset.size=8"
    )
    assert done.status == 0


def test_a_loss_that_explodes_ends_the_run_with_a_hint(tmp_path):
    words = ("optimizer.lr=1e30", "optimizer.warmup=0", "trainer.clip=null")
    done = here(tmp_path, "train", *SIX, *words)
    assert done.status == 1
    assert re.search(r"the loss is (nan|inf) at step \d; lower optimizer.lr", done.line())


def test_tensorboard_gets_losses_and_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ("logger=tensorboard", "trainer.max_steps=2", "trainer.log_every=1")
    drawing = ("preview.every=2", "preview.num_samples=2", "preview.sampler.steps=1")
    run = train(tmp_path, *TINY, *words, *drawing)
    events = EventAccumulator(str(run)).Reload()
    assert len(events.Scalars("loss")) == 2
    assert "samples" in events.Tags()["images"]


def test_a_sweep_with_a_model_that_cannot_learn_starts_no_job(tmp_path):
    words = (*TINY, "logger=none", "schedule.zero_snr=false,true", "prediction=eps")
    done = here(tmp_path, "train", "-m", *words)
    assert done.status == 2
    assert "take prediction=v, flow or x0" in done.line()
    assert not list(tmp_path.glob("runs/**/last.ckpt"))


def test_each_job_of_a_sweep_is_a_run_of_wandb_by_itself(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = ("logger=wandb", "logger.offline=true", "trainer.max_steps=1", "seed=0,1")
    sweep = tmp_path / worked(here(tmp_path, "train", "-m", *TINY, *words)).folder
    assert [len(list(sweep.glob(f"{job}/wandb/offline-run-*/*.wandb"))) for job in "01"] == [1, 1]


def test_wandb_without_login_or_package_is_one_line(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def unknown(**_):
        raise wandb.errors.UsageError("No API key configured.\nThe second line")

    monkeypatch.setattr(wandb, "init", unknown)
    done = here(tmp_path, "train", *TINY, "logger=wandb")
    assert done.status == 2
    assert done.line() == (
        "wandb does not start (No API key configured.); set logger.offline=true, or another logger"
    )
    monkeypatch.setattr(lightning.pytorch.loggers.wandb, "_WANDB_AVAILABLE", False)
    done = here(tmp_path, "train", *TINY, "logger=wandb")
    assert (done.status, done.line()) == (
        2,
        "logger=wandb needs one more package: pip install wandb",
    )


def forged(data, run):
    """Put these contents in the place of a run's, their hashes right."""
    for key in ("hash", "training_hash"):
        del data["diffgen"][key]
    seal(data)
    torch.save(data, last(run))


def test_a_strangers_run_that_goes_on_touches_nothing_outside_its_folder(ddpm, tmp_path):
    run = Path(shutil.copytree(ddpm, tmp_path / "run"))
    data, outside = contents(last(run)), tmp_path / "outside"
    recipe = data["diffgen"]["recipe"]
    recipe |= {"logger": {"name": "wandb", "project": "theirs"}, "runs": str(outside / "runs")}
    recipe |= {"dataset": {"name": "mnist", "root": str(outside / "mnist")}}
    recipe["cache"] = str(outside / "cache")
    forged(data, run)
    done = here(tmp_path, "train", f"resume={run}", "trainer.max_steps=41")
    assert done.status == 2
    assert done.line().startswith(f"mnist is not in {outside}/mnist, and is not downloaded")
    wanted = "set dataset=mnist dataset.root=FOLDER, where it is read or downloaded"
    assert done.line().endswith(wanted)
    assert "its recipe logs by wandb: add logger=wandb to go on with it" in done.out
    assert not outside.exists()


@pytest.mark.parametrize(
    "words", [["metrics=[accuracy]"], ["metrics=[]", "task=variations", "task.image=1"]]
)
def test_sampling_downloads_nothing_into_a_strangers_folder(words, ddpm, tmp_path, monkeypatch):
    """Scoring and tasks need the data set: where it lies is for the user to say."""
    asked = []

    def download(*_, **__):
        asked.append(True)
        raise OSError("no network here")

    for name in ("_urlretrieve", "_get_redirect_url"):
        monkeypatch.setattr(f"torchvision.datasets.utils.{name}", download)
    run = Path(shutil.copytree(ddpm, tmp_path / "run"))
    data = contents(last(run))
    data["diffgen"]["recipe"]["dataset"] = {"name": "mnist", "root": str(tmp_path / "outside")}
    forged(data, run)
    drawn = ("sample", f"checkpoint={run}", "num_samples=2", "steps=2", *words)
    line = here(tmp_path, *drawn).line()
    assert "mnist is not in" in line
    assert line.endswith("or set root=FOLDER, where it is read or downloaded")
    assert not asked
    assert not (tmp_path / "outside").exists()
    assert "nor downloaded" in here(tmp_path, *drawn, "root=mine").line()
    assert asked
