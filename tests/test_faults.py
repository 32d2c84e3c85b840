"""Trainings that are ended, doubled or starved: what is saved, kept apart and said."""

import contextlib
import csv
import errno
import os
import resource
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from running import TINY, assert_same, contents, here, worked
from torch import nn

import diffgen.runtime.logger
from diffgen.commands.train import Run
from diffgen.commands.train_callbacks import PreviewImages
from diffgen.config.parts import Named
from diffgen.dataset.pixels import RANGES
from diffgen.errors import UsageError
from diffgen.files import WriteError, write_atomically
from diffgen.runs.locate import locate
from diffgen.runtime.devices import fabric_of
from diffgen.runtime.launch import run_id
from diffgen.runtime.logger import logger_of
from diffgen.runtime.metrics_csv import MetricsCsv
from diffgen.runtime.run_lock import sole_writer
from diffgen.training.module import Module
from diffgen.training.preview import Preview
from diffgen.training.progress import Reporter, say
from diffgen.training.saving import CheckpointSaver

pytestmark = pytest.mark.usefixtures("cache")

SIX = (*TINY, "optimizer.decay=constant", "trainer.log_every=1", "trainer.max_steps=6")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def run_in(folder: Path) -> Path:
    """The one run of a folder."""
    (found,) = folder.glob("runs/*/*")
    return found


def at_step(number: int, act):
    """Calls `act` before the given step of a training computes anything."""

    def step(self, batch, index):
        if self.global_step == number - 1:
            act()
        return training_step(self, batch, index)

    training_step = Module.training_step
    return step


def raised(error: BaseException):
    def act(*_, **__):
        raise error

    return act


class TestMetricsCsv:
    def test_a_run_that_goes_on_has_each_step_once(self, tmp_path):
        path = tmp_path / "metrics.csv"
        first = MetricsCsv(path)
        first.go_on(0, {})
        for step in (1, 2, 3):
            first.log_metrics({"loss": step / 2, **({"late": 7.0} if step > 1 else {})}, step)
        with path.open("a") as file:  # as a process that was killed may leave it
            file.write("7.0,3.0,3\n2,0.25,")
        second = MetricsCsv(path)
        second.go_on(2, {})
        second.log_metrics({"loss": 9.0, "late": 8.0}, 3)
        rows = rows_of(path)
        assert [row["step"] for row in rows] == ["1", "2", "3"]
        assert [row["loss"] for row in rows] == ["0.5", "1.0", "9.0"]
        assert [row["late"] for row in rows] == ["", "7.0", "8.0"]

    def test_rows_of_a_run_that_begins_anew_are_gone(self, tmp_path):
        path = tmp_path / "metrics.csv"
        path.write_text("loss,step\n1.0,1\n")
        again = MetricsCsv(path)
        again.go_on(0, {})
        again.log_metrics({"loss": 2.0}, 1)
        assert rows_of(path) == [{"loss": "2.0", "step": "1"}]

    @pytest.mark.parametrize("more", [{}, {"late": 7.0}], ids=["appended", "written anew"])
    def test_rows_that_a_full_disk_refuses_go_into_the_next_write(self, more, tmp_path, caplog):
        path = tmp_path / "metrics.csv"
        log = MetricsCsv(path)
        log.log_metrics({"loss": 1.0}, 1)
        before = path.read_bytes()
        with room_for(len(before) + 5):
            log.log_metrics({"loss": 2.0, **more}, 2)
            log.log_metrics({"loss": 3.0}, 3)
            log.finalize("failed")
            with pytest.raises(WriteError, match=r"metrics\.csv"):
                log.finalize("success")
        assert path.read_bytes() == before
        assert len(caplog.records) == 1
        assert "rows are kept for the next write" in caplog.text
        log.log_metrics({"loss": 4.0}, 4)
        rows = rows_of(path)
        assert [(row["step"], row["loss"]) for row in rows] == [
            (str(k), f"{k}.0") for k in (1, 2, 3, 4)
        ]
        assert [row.get("late") for row in rows][1] == (more.get("late") and "7.0")

    def test_rows_that_only_a_checkpoint_holds_come_back(self, tmp_path):
        path = tmp_path / "metrics.csv"
        path.write_text("loss,step\n1.0,1\n3.0,3\n4.0,4\n5.0,5\n")
        log = MetricsCsv(path)
        log.go_on(4, {2: {"loss": 2.0, "step": 2}, 4: {"late": 8.0, "step": 4}})
        log.log_metrics({"loss": 6.0}, 5)
        assert [row["loss"] for row in rows_of(path)] == ["1.0", "2.0", "3.0", "4.0", "6.0"]
        assert [row["late"] for row in rows_of(path)] == ["", "", "", "8.0", ""]


@contextlib.contextmanager
def room_for(size: int):
    """Within it files hold no more bytes than these, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_under_torch_is_named(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"before")
    big = torch.zeros(100_000)
    with room_for(50_000), pytest.raises(WriteError, match=r"cannot write .*last\.ckpt \("):
        write_atomically(path, lambda file: torch.save(big, file))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_has_one_writer_who_is_named_until_it_dies(tmp_path):
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with sole_writer(tmp_path):
            os.write(told, b"x")
            signal.pause()
    os.read(ready, 1)
    try:
        refused = pytest.raises(UsageError, match=f"is being trained by process {child} on ")
        with refused, sole_writer(tmp_path):
            raise AssertionError("two writers")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with sole_writer(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / ".holder").read_text()
    assert not (tmp_path / ".holder").exists()


def test_ranks_beyond_the_first_hold_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with sole_writer(tmp_path / "run"):
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [BrokenPipeError(32, "gone"), ValueError("odd"), MemoryError()])
def test_an_error_between_steps_saves_them_first(error, tmp_path, monkeypatch):
    monkeypatch.setattr(Module, "training_step", at_step(4, raised(error)))
    done = here(tmp_path, "train", *SIX)
    monkeypatch.undo()
    monkeypatch.setenv("DIFFGEN_CACHE", str(tmp_path / "cache"))
    run = run_in(tmp_path)
    assert done.status == 1
    assert f"step 3 is saved; go on with: diffgen train resume={run}" in done.out
    assert contents(run / "checkpoints/last.ckpt")["global_step"] == 3
    if isinstance(error, ValueError):
        worked(here(tmp_path, "train", f"resume={run}"))
        assert [row["step"] for row in rows_of(run / "metrics.csv")] == list("123456")
        worked(here(tmp_path, "train", *SIX, "runs=whole"))
        (whole,) = tmp_path.glob("whole/*/*")
        ours, theirs = (contents(r / "checkpoints/last.ckpt") for r in (run, whole))
        for key in ("state_dict", "ema", "optimizer_states"):
            assert_same(ours[key], theirs[key], key)


def test_a_disk_that_is_full_for_the_log_alone_loses_no_row(tmp_path, monkeypatch):
    """Nor does an end right behind a save, at step 4, or right before one, at step 5."""

    def full(self):
        raise WriteError(self.path, OSError(errno.ENOSPC, "No space left on device"))

    def broken(method, step):
        def act(self, trainer, *of):
            method(self, trainer, *of)
            if trainer.global_step == step:
                raise OSError(5, "gone")

        return act

    words = ("trainer.log_every=2", "trainer.max_steps=7", "trainer.save_every=4")
    save, report = CheckpointSaver._save, Reporter.on_train_batch_end
    with monkeypatch.context() as patched:
        patched.setattr(MetricsCsv, "_write", full)
        patched.setattr(CheckpointSaver, "_save", broken(save, 4))
        assert here(tmp_path, "train", *SIX, *words).status == 1
        patched.setattr(Reporter, "on_train_batch_end", broken(report, 5))
        run = run_in(tmp_path)
        done = here(tmp_path, "train", f"resume={run}")
    assert "step 5 is saved" in done.out
    worked(here(tmp_path, "train", f"resume={run}"))
    worked(here(tmp_path, "train", *SIX, *words, "runs=whole"))
    (whole,) = tmp_path.glob("whole/*/*/metrics.csv")
    ours, theirs = rows_of(run / "metrics.csv"), rows_of(whole)
    assert [row["step"] for row in ours] == ["2", "4", "6", "7"]
    for mine, row in zip(ours, theirs, strict=True):
        assert mine | {"images_per_second": ""} == row | {"images_per_second": ""}


def test_an_error_within_an_update_saves_no_half_of_it(tmp_path, monkeypatch):
    steps, update = [], torch.optim.AdamW.step

    def step(self, closure=None):
        loss = update(self, closure)
        steps.append(loss)
        if len(steps) == 4:
            raise RuntimeError("in the middle")
        return loss

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    done = here(tmp_path, "train", *SIX, "trainer.save_every=2")
    assert (done.status, len(steps)) == (1, 4)
    last = run_in(tmp_path) / "checkpoints/last.ckpt"
    assert contents(last)["global_step"] == 2
    assert "step 2 is saved" in done.out


def test_a_lost_terminal_saves_as_sigterm_does(tmp_path, monkeypatch):
    hang_up = at_step(3, lambda: os.kill(os.getpid(), signal.SIGHUP))
    monkeypatch.setattr(Module, "training_step", hang_up)
    done = here(tmp_path, "train", *SIX)
    run = run_in(tmp_path)
    assert done.status == 128 + signal.SIGHUP
    assert done.line() == (
        f"stopped by SIGHUP; step 3 is saved; go on with: diffgen train resume={run}"
    )
    assert contents(run / "checkpoints/last.ckpt")["global_step"] == 3


def test_after_a_loss_that_is_not_finite_the_line_names_what_is_good(tmp_path, monkeypatch):
    def explode():
        for weight in modules[0].parameters():
            weight.data.fill_(torch.nan)

    modules, made = [], Run.module
    monkeypatch.setattr(Run, "module", lambda *of: modules.append(made(*of)) or modules[-1])
    monkeypatch.setattr(Module, "training_step", at_step(4, explode))
    done = here(tmp_path, "train", *SIX, "trainer.save_every=2")
    assert done.status == 1
    remedy = f"init={run_in(tmp_path)}"
    assert f"lower optimizer.lr; step 2 is saved; {remedy} begins a new run" in done.line()
    kept = contents(run_in(tmp_path) / "checkpoints/last.ckpt")
    assert kept["global_step"] == 2
    assert all(bool(w.isfinite().all()) for w in kept["state_dict"].values())
    monkeypatch.undo()
    worked(here(tmp_path, "train", *SIX, remedy, "optimizer.lr=1e-4"))


def test_a_reader_that_goes_away_ends_no_progress(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        say("a line")
        say("another")


class TestPreviews:
    def test_they_are_the_same_in_parts_and_no_larger_than_a_batch(self):
        images = torch.randn(10, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        sizes = []

        def sampler(denoiser, x, times, label, noise):
            sizes.append(len(x))
            return x + label.view(-1, 1, 1, 1)

        plan = SimpleNamespace(
            clipped=lambda denoiser, _: denoiser,
            start=lambda schedule, t, like, noise, bounds: noise(like),
            sampler=sampler,
            times=torch.tensor([1.0, 0.0]),
        )
        drawn = PreviewImages(
            plan=plan, shape=(1, 4, 4), labels=torch.arange(10) / 10, num_samples=len(images)
        )
        denoiser = SimpleNamespace(schedule=None)
        whole, parts = (
            drawn(denoiser, RANGES["symmetric"], torch.device("cpu"), n) for n in (10, 3)
        )
        assert torch.equal(whole, parts)
        assert sizes == [10, 3, 3, 3, 1]

    @pytest.mark.parametrize("error", [FloatingPointError("nan"), OSError(28, "full")])
    def test_one_that_cannot_be_drawn_is_told_and_comes_after_the_save(
        self, error, tmp_path, monkeypatch
    ):
        saved = []

        def fail(*_):
            saved.append(contents(run_in(tmp_path) / "checkpoints/last.ckpt")["global_step"])
            raise error

        monkeypatch.setattr(PreviewImages, "__call__", fail)
        words = ("preview.every=2", "preview.num_samples=4", "trainer.save_every=2")
        done = worked(here(tmp_path, "train", *SIX, *words))
        assert saved == [2, 4, 6]
        assert "no preview at step 4: " in done.out

    def test_a_run_that_is_to_end_waits_for_none(self):
        network = nn.Linear(1, 1)
        module = SimpleNamespace(
            denoiser=SimpleNamespace(
                network=network, eval=lambda: None, train=lambda: modes.append("train")
            ),
            pixel_range=None,
            device=None,
            batch_size=4,
        )
        modes, ema = [], SimpleNamespace(weights=lambda _: contextlib.nullcontext())
        trainer = SimpleNamespace(
            global_step=2, max_steps=9, is_global_zero=True, loggers=[], world_size=1
        )
        trainer.accumulate_grad_batches = 2
        batches = []

        def images(denoiser, pixel_range, device, batch_size):
            batches.append(batch_size)
            return network(torch.zeros(1, 1))

        preview = Preview(Path("nowhere"), ema, 2, images, stopping=lambda: True)
        preview.on_train_batch_end(trainer, module)
        assert (batches, modes) == ([2], ["train"])
        assert not network._forward_pre_hooks


def test_a_job_of_a_sweep_that_starts_again_goes_on_and_is_found(tmp_path):
    words = ("-m", *SIX, "seed=3,4", "hydra.sweep.dir=runs/sweeps/sw")
    worked(here(tmp_path, "train", *words, "trainer.max_steps=2"))
    latest = locate("latest", tmp_path / "runs")
    assert latest == tmp_path / "runs/sweeps/sw/1/checkpoints/last.ckpt"
    worked(here(tmp_path, "train", *words, "trainer.max_steps=3"))
    for job in "01":
        rows = rows_of(tmp_path / f"runs/sweeps/sw/{job}/metrics.csv")
        assert [row["step"] for row in rows] == ["1", "2", "3"]
    done = here(tmp_path, "train", *SIX, "seed=3", "resume=auto", "trainer.max_steps=4")
    assert (tmp_path / worked(done).folder).samefile(tmp_path / "runs/sweeps/sw/0")
    before = contents(latest)["global_step"]
    done = here(tmp_path, "train", *words[:-2], "seed=5,6", words[-1])
    assert done.status != 0
    assert "holds another run, of other settings; name another folder" in done.err
    assert contents(latest)["global_step"] == before


def test_a_new_run_takes_no_folder_of_another(tmp_path):
    words = ("train", *SIX, "logger=none", "trainer.max_steps=1", "hydra.run.dir=runs/exp")
    worked(here(tmp_path, *words))
    last = tmp_path / "runs/exp/checkpoints/last.ckpt"
    before, log = last.read_bytes(), (tmp_path / "runs/exp/train.log").read_bytes()
    (tmp_path / "other").mkdir()
    for more in ((), ("seed=1",), ("resume=other",)):
        done = here(tmp_path, *words, *more)
        assert done.status == 2
        assert done.line().startswith(
            "runs/exp holds another run: resume=runs/exp goes on with it"
        )
    assert (last.read_bytes(), (tmp_path / "runs/exp/train.log").read_bytes()) == (before, log)
    done = worked(here(tmp_path, *words[:-1], "resume=runs/exp", "trainer.max_steps=2"))
    assert contents(last)["global_step"] == 2


def test_a_job_that_a_cluster_restarts_goes_on_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFGEN_RUN_ID", "job7")
    worked(here(tmp_path, "train", *SIX, "trainer.max_steps=2"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    worked(here(tmp_path, "train", *SIX, "trainer.max_steps=3"))
    rows = rows_of(tmp_path / "runs/digits_ddpm/job7/metrics.csv")
    assert [row["step"] for row in rows] == ["1", "2", "3"]


SLURM = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_NNODES": "1"}


@pytest.mark.parametrize(
    ("env", "answer"),
    [
        ({}, "Slurm gave this job 4 tasks, and this is one process: start it by `srun` with"),
        (
            {"SLURM_STEP_ID": "0"},
            "srun starts 4 tasks, but trainer.devices=1: set trainer.devices=4",
        ),
        ({"SLURM_STEP_ID": "0", "SLURM_NNODES": "2"}, "diffgen computes on one node: ask Slurm"),
    ],
    ids=["no srun", "one device", "two nodes"],
)
def test_tasks_of_slurm_that_do_not_fit_get_our_own_line(env, answer, monkeypatch):
    for name, value in (SLURM | env).items():
        monkeypatch.setenv(name, value)
    settings = {"accelerator": "cpu", "devices": 1, "precision": "32-true"}
    with pytest.raises(UsageError, match="^" + answer):
        fabric_of(settings, "trainer.")
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # an interactive shell of so many tasks
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    assert fabric_of(settings, "trainer.").world_size == 1
    assert run_id() != run_id()


def test_wandb_goes_on_with_the_run_that_it_began(tmp_path, monkeypatch):
    asked = []

    class Fake:
        experiment = None

        def __init__(self, **settings):
            asked.append(settings["id"])
            self.version = settings["id"] or "r1"

        def log_hyperparams(self, config):
            pass

    monkeypatch.setattr(diffgen.runtime.logger, "WandbLogger", Fake)
    for _ in range(2):
        logger_of(Named("wandb", {"offline": True}), tmp_path, {})
    assert asked == [None, "r1"]
