"""What `diffgen sample` keeps, and where: interruptions, folders one may only read, no links."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from running import here, worked

from diffgen.cli.error_message import explain
from diffgen.cli.hydra_app import sigterm_exits
from diffgen.cli.registry import COMMANDS
from diffgen.files import WriteError, place
from diffgen.runs import cell as cells_room
from diffgen.runs.drawn_batches import Drawn, DrawnBatches
from diffgen.runtime import launch
from diffgen.sampling import publishing
from diffgen.sampling.publishing import cells_of
from diffgen.task.generate import Generate

pytestmark = pytest.mark.usefixtures("cache")

WORDS = ("accelerator=cpu", "steps=2", "num_samples=12", "batch_size=4", "metrics=[]")
FEATURES = ("features=classifier", "features.steps=30", "features.width=8", "features.dim=8")


@pytest.fixture
def run(ddpm, tmp_path):
    """A run of one's own, without cells, in a folder of runs."""
    folder = tmp_path / "runs" / "digits_ddpm" / "a"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(ddpm / "checkpoints" / "last.ckpt", folder / "checkpoints")
    return folder


def pixels(folder: Path) -> np.ndarray:
    with np.load(folder / "samples.npz") as arrays:
        return arrays["arr_0"]


@pytest.fixture
def drawn(monkeypatch):
    """The numbers of the images that are drawn, batch by batch; `stop` interrupts a batch."""

    class Calls(list):
        stop: int | None = None

    calls, draw = Calls(), Generate.__call__

    def call(self, images, device):
        if len(calls) == calls.stop:
            calls.stop = None
            raise KeyboardInterrupt
        calls.append(list(images))
        return draw(self, images, device)

    monkeypatch.setattr(Generate, "__call__", call)
    return calls


def test_an_interrupted_sampling_goes_on_and_gives_the_same_bytes(run, drawn, tmp_path):
    drawn.stop = 2
    stopped = here(tmp_path, "sample", f"checkpoint={run}", *WORDS)
    assert stopped.status == 130
    assert "8 of 12 images are kept" in stopped.out + stopped.err
    assert f"checkpoint={run}" in stopped.out + stopped.err  # the command that goes on
    kept = list(run.glob("cells/*/batches/*.npz"))
    assert kept
    worked(done := here(tmp_path, "sample", f"checkpoint={run}", *WORDS))
    assert drawn == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert not list(run.glob("cells/*/batches"))
    found = pixels(done.folder)
    row = json.loads(next(run.glob("cells/*/result.json")).read_text())
    assert row["nfe"] == 2
    shutil.rmtree(run / "cells")
    assert np.array_equal(found, pixels(worked(here(tmp_path, "sample", *WORDS)).folder))


def test_a_damaged_batch_is_drawn_again(tmp_path):
    numbers = torch.arange(3)
    cost = torch.ones(3, dtype=torch.float64)
    batches = DrawnBatches(tmp_path, (1, 2, 2))
    batches.add(Drawn(numbers, torch.ones(3, 1, 2, 2, dtype=torch.uint8), cost, cost))
    batches.write()
    (tmp_path / "7-9.npz").write_bytes(b"PK torn")
    np.savez(tmp_path / "10-10.npz", numbers=[10], images=np.zeros((1, 5, 2, 2)), nfe=[1])
    assert DrawnBatches(tmp_path, (1, 2, 2)).read().numbers.tolist() == [0, 1, 2]
    assert DrawnBatches(tmp_path, (1, 3, 2)).read().numbers.tolist() == []


def test_batches_of_another_size_draw_only_what_is_missing(run, drawn, tmp_path):
    drawn.stop = 1
    here(tmp_path, "sample", f"checkpoint={run}", *WORDS)
    worked(here(tmp_path, "sample", f"checkpoint={run}", *WORDS, "batch_size=6"))
    assert drawn == [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9, 10, 11]]


def test_images_whose_scoring_failed_are_scored_later(run, drawn, tmp_path, monkeypatch):
    words = (f"checkpoint={run}", *WORDS, "metrics=[saturation]", *FEATURES)
    with monkeypatch.context() as patch:
        patch.setattr("diffgen.sampling.evaluator.score", lambda *_: 1 / 0)
        assert here(tmp_path, "sample", *words).status == 1
    assert len(drawn) == 3
    worked(here(tmp_path, "sample", *words))
    assert len(drawn) == 3


def test_a_lost_sheet_is_made_again_of_the_images(run, drawn, tmp_path):
    worked(here(tmp_path, "sample", f"checkpoint={run}", *WORDS))
    (sheet,) = run.glob("cells/*/samples.png")
    sheet.unlink()
    done = worked(here(tmp_path, "sample", f"checkpoint={run}", *WORDS))
    assert sheet.is_file()
    assert (done.folder / "samples.png").is_file()
    assert len(drawn) == 3


def test_a_run_that_one_may_only_read_is_sampled_into_ones_own(run, drawn, tmp_path, monkeypatch):
    theirs = worked(here(tmp_path, "sample", f"checkpoint={run}", *WORDS, "seed=7"))
    before = sorted(run.rglob("*"))
    cells_room.home.cache_clear()
    monkeypatch.setattr(
        cells_room, "can_write", lambda folder: run not in (folder, *folder.parents)
    )
    words = (f"checkpoint={run}", *WORDS, "runs=mine")
    first = worked(here(tmp_path, "sample", *words))
    assert len(list((tmp_path / "mine" / "cells").iterdir())) == 1
    again = worked(here(tmp_path, "sample", *words))
    assert len(drawn) == 6
    assert np.array_equal(pixels(first.folder), pixels(again.folder))
    old = worked(here(tmp_path, "sample", *words, "seed=7"))  # which the owner has drawn
    assert len(drawn) == 6
    assert np.array_equal(pixels(old.folder), pixels(theirs.folder))
    assert sorted(run.rglob("*")) == before
    cells_room.home.cache_clear()


@pytest.mark.parametrize("refused", [(), ("link",), ("link", "symlink")])
def test_files_are_placed_by_links_or_as_copies(refused, tmp_path, monkeypatch):
    source, target = tmp_path / "cell", tmp_path / "job"
    (source / "images").mkdir(parents=True)
    for name in ("samples.npz", "images/0.png", "result.json", ".samples.npz.7.partial"):
        (source / name).write_text(name)

    def fail(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    for name in refused:
        monkeypatch.setattr(os, name, fail)
    for _ in range(2):
        place(source, target, leave={"result.json"})
        found = {str(p.relative_to(target)): p.read_text() for p in target.rglob("*.*")}
        assert found == {name: name for name in ("samples.npz", "images/0.png")}
    assert (target / "samples.npz").is_symlink() == (refused == ("link",))


def test_a_full_disk_is_called_so_with_its_folder(tmp_path):
    error = WriteError(tmp_path / "samples.npz", OSError(errno.ENOSPC, "No space left on device"))
    assert f"the disk of {tmp_path} is full" in str(error)
    forbidden = WriteError(tmp_path, OSError(errno.EACCES, "no"))
    train = COMMANDS["train"]
    assert [explain(each, train, Namespace())[0] for each in (error, forbidden)] == [1, 2]


@pytest.mark.parametrize("moved", ["runs", "cells of a run elsewhere"])
def test_cells_are_found_after_the_folder_of_runs_was_moved(moved, run, tmp_path):
    done = worked(here(tmp_path, "sample", f"checkpoint={run}", *WORDS))
    elsewhere = tmp_path / "else" / "where"
    elsewhere.parent.mkdir()
    (tmp_path / "runs").rename(elsewhere)
    job = elsewhere / "samples" / done.folder.name
    if moved != "runs":  # as notes of earlier versions are
        (cell,) = cells_of(job)
        old = str(cell).replace(str(elsewhere), str(tmp_path / "runs"))
        (job / "cells.json").write_text(json.dumps({"cells": [old]}))
    assert [cell.parents[1].name for cell in cells_of(job)] == ["a"]
    assert cells_of(elsewhere) == cells_of(job)


def test_a_note_of_a_lost_cell_hides_no_others(run, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(publishing.log, "warning", lambda text, *more: told.append(text % more))
    done = worked(here(tmp_path, "sample", f"checkpoint={run}", *WORDS))
    (done.folder.parent / "lost").mkdir()
    (done.folder.parent / "lost" / "cells.json").write_text('{"cells": ["../../gone"]}')
    (done.folder.parent / "torn").mkdir()
    (done.folder.parent / "torn" / "cells.json").write_text('{"cel')
    assert len(cells_of(tmp_path / "runs")) == 1
    assert len(told) == 2
    assert "gone" in told[0]
    assert "torn" in told[1]


def test_the_other_processes_of_a_job_end_with_it(monkeypatch):
    others = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]

    def job():
        with launch.isolated():
            for rank in "12":
                monkeypatch.setenv("LOCAL_RANK", rank)
                launch.say_ready()
            launch._ended_together(others)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job()
    assert [other.returncode for other in others] == [-signal.SIGTERM] * 2


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 1", "process 2 of the job ended with status 1"),
        ("kill -9 $$", r"process 2 of the job ended with status -9 \(SIGKILL\)"),
        ("exit 143", None),  # it was told to end
        ("kill -TERM $$", None),
    ],
)
def test_all_processes_of_a_job_end_when_one_dies(script, told, monkeypatch):
    others = [subprocess.Popen(words) for words in (["sleep", "60"], ["sh", "-c", script])]
    watch = threading.Thread(target=launch._watch, args=(others,))

    def job():
        with launch.isolated():
            launch._started[:] = others
            watch.start()
            time.sleep(50)

    monkeypatch.setattr(launch, "GRACE", 0.2)
    with sigterm_exits(), pytest.raises(launch.ProcessLost if told else SystemExit) as raised:
        job()
    assert re.fullmatch(told or "143", str(raised.value))
    watch.join()
    assert others[0].wait() == -signal.SIGTERM


def test_a_process_that_dies_before_it_is_ready_fails_its_job_alone():
    """The first one does not yet wait for it where no signal is heard, and goes on to live."""
    others = [subprocess.Popen(words) for words in (["sleep", "60"], ["sh", "-c", "kill -9 $$"])]

    def job():
        with launch.isolated():
            launch._ended_together(others)
            pytest.fail("it connects to a process that is dead")

    with sigterm_exits(), pytest.raises(launch.ProcessLost, match=r"process 2 .*SIGKILL"):
        job()
    assert others[0].wait() == -signal.SIGTERM


def test_a_lost_connection_names_the_process_that_was_killed():
    dead = subprocess.Popen(["sh", "-c", "kill -9 $$"])
    dead.wait()

    def job(error):
        with launch.isolated():
            launch._started[:] = [dead]
            raise error

    with pytest.raises(launch.ProcessLost, match=r"process 1 .*SIGKILL"):
        job(RuntimeError("Connection closed by peer"))
    with pytest.raises(KeyboardInterrupt):
        job(KeyboardInterrupt())


def test_a_process_that_does_not_end_is_killed(monkeypatch, capsys):
    sent, kill, mine = [], os.kill, os.getpid()
    monkeypatch.setattr(launch, "GRACE", 0.2)
    monkeypatch.setattr(os, "kill", lambda pid, n: sent.append(n) if pid == mine else kill(pid, n))
    others = [subprocess.Popen(["false"])]
    monkeypatch.setattr(launch, "_started", others)
    launch._watch(others)
    assert sent == [signal.SIGTERM, signal.SIGKILL]
    assert "status 1, and this one waits for it: it ends now" in capsys.readouterr().err


def test_images_are_drawn_once_whatever_is_measured_of_them(run, tmp_path, drawn):
    words = ("checkpoint=" + str(run), *WORDS[:-1], "out=images")
    first = worked(here(tmp_path, "sample", *words, "metrics=[]"))
    drawn.clear()
    second = worked(here(tmp_path, "sample", *words, "metrics=[fid]", "features=random"))
    third = worked(here(tmp_path, "sample", *words, "metrics=[saturation]", *FEATURES))
    assert drawn == []
    folders = [tmp_path / each.folder for each in (first, second, third)]
    assert all((pixels(folder) == pixels(folders[0])).all() for folder in folders)
    rows = [json.loads((cells_of(folder)[0] / "result.json").read_text()) for folder in folders]
    assert [sorted(row["metrics"]) for row in rows] == [[], ["fid"], ["saturation"]]
    assert rows[0]["seconds"] == rows[1]["seconds"]
    worked(here(tmp_path, "sample", *words[:-1], "metrics=[fid]", "features=random", "seed=1"))
    assert drawn != []
