"""Checkpoints are data: whole or not at all, sealed, and else refused in one line."""

import os
import pickle
import random
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from running import assert_same, contents, here, settings

from diffgen import load
from diffgen.errors import UsageError
from diffgen.files import partial_of, write_atomically
from diffgen.runs import checkpoint
from diffgen.runs.checkpoint_format import seal
from diffgen.runs.locate import locate
from diffgen.training.ema import Ema
from diffgen.training.saving import CheckpointSaver, Diverged, SealedCheckpointIO


@pytest.fixture(scope="module")
def good(ddpm):
    return ddpm / "checkpoints" / "last.ckpt"


def refusal(path):
    """The one line for a file."""
    with pytest.raises(UsageError) as caught:
        checkpoint.load(path).denoiser()
    line = str(caught.value)
    assert str(path) in line
    assert "\n" not in line
    return line


def saved(data, path):
    torch.save(data, path)
    return path


def test_it_holds_raw_and_averaged_weights_apart(good):
    found = checkpoint.load(good)
    assert found.step == 40
    assert list(found.states) == ["raw", "average", "quick"]
    assert found.classes == tuple("0123456789")
    assert found.shape == (1, 8, 8)
    assert found.recipe["trainer"]["max_steps"] == 40
    raw, average = found.states["raw"], found.states["average"]
    assert raw.keys() >= average.keys()
    assert any(not torch.equal(raw[key], average[key]) for key in average)


@pytest.mark.parametrize("name", ["raw", "average", "quick"])
def test_the_denoiser_has_the_weights_asked_for(good, name):
    found = checkpoint.load(good)
    denoiser = found.denoiser(name)
    for key, tensor in denoiser.network.state_dict().items():
        assert torch.equal(tensor, found.states[name].get(key, found.states["raw"][key]))
    assert not denoiser.training
    assert not any(p.requires_grad for p in denoiser.parameters())


def test_the_first_average_is_meant_where_none_is_named(good, ddpm):
    found = checkpoint.load(good)
    named, default = found.denoiser("average"), found.denoiser()
    assert_same(default.network.state_dict(), named.network.state_dict())
    denoiser, schedule, pixel_range = load(ddpm)
    assert_same(denoiser.network.state_dict(), named.network.state_dict())
    assert schedule is denoiser.schedule
    assert pixel_range == found.range
    with pytest.raises(UsageError, match=r"ema=avrage .*; did you mean average\?"):
        found.denoiser("avrage")


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_truncated_file(good, tmp_path, share):
    data, path = good.read_bytes(), tmp_path / "x.ckpt"
    path.write_bytes(data[: int(share * len(data))])
    assert "truncated" in refusal(path)


def test_flipped_bytes_never_pass_and_never_crash(good, tmp_path):
    """A file is refused in one line, or the damage lies where nothing is read from."""
    data, path, generator = good.read_bytes(), tmp_path / "x.ckpt", random.Random(0)
    whole, outcomes = checkpoint.load(good), {"refused": 0, "equal": 0}
    for _ in range(25):
        broken = bytearray(data)
        for _ in range(generator.choice([1, 5, 50])):
            broken[generator.randrange(len(data))] ^= generator.randrange(1, 256)
        path.write_bytes(broken)
        try:
            found = checkpoint.load(path)
        except UsageError:
            outcomes["refused"] += 1
        else:
            outcomes["equal"] += 1
            assert_same(found.states, whole.states)
            assert found.recipe == whole.recipe
    assert outcomes["refused"] > 18


class Payload:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


PICKLES = {
    "plain pickle": lambda payload, path: path.write_bytes(pickle.dumps(payload)),
    "torch file": lambda payload, path: torch.save({"diffgen": payload}, path),
    "old torch file": lambda payload, path: torch.save(
        [payload], path, _use_new_zipfile_serialization=False
    ),
}


@pytest.mark.parametrize("write", PICKLES.values(), ids=PICKLES)
def test_code_in_a_file_is_never_run(write, tmp_path):
    path = tmp_path / "x.ckpt"
    write(Payload(tmp_path / "ran"), path)
    refusal(path)
    assert not (tmp_path / "ran").exists()


def test_code_in_a_file_is_named_as_such(tmp_path):
    path = saved({"diffgen": Payload(tmp_path / "ran")}, tmp_path / "x.ckpt")
    assert "may run code" in refusal(path)


def raw(data):
    next(iter(data["state_dict"].values())).view(-1)[0] += 1


def average(data):
    next(iter(data["ema"]["average"].values())).view(-1)[-1] += 1e-3


def optimiser(data):
    data["optimizer_states"][0]["state"][0]["exp_avg"].view(-1)[0] += 1


def rate(data):
    data["optimizer_states"][0]["param_groups"][0]["lr"] += 1e-3


def header(data):
    data["diffgen"]["recipe"]["seed"] = 99


def step(data):
    data["global_step"] += 1


def classes(data):
    data["diffgen"]["classes"][0] = "zero"


@pytest.mark.parametrize("tamper", [raw, average, optimiser, rate, header, step, classes])
def test_whatever_is_changed_is_noticed(tamper, good, tmp_path):
    data = contents(good)
    tamper(data)
    assert "was changed after it was written" in refusal(saved(data, tmp_path / "x.ckpt"))


def test_another_format_is_named(good, tmp_path):
    data = contents(good)
    data["diffgen"]["format"] = 99
    assert "format 99; this diffgen reads 1" in refusal(saved(data, tmp_path / "x.ckpt"))


@pytest.mark.parametrize(
    "data",
    [{"model": torch.ones(2), "step": 3}, [{"weight": torch.ones(2)}], torch.ones(3), "text"],
    ids=["dict", "list", "tensor", "text"],
)
def test_a_file_of_another_program(data, tmp_path):
    assert "another program" in refusal(saved(data, tmp_path / "x.ckpt"))


@pytest.mark.parametrize("key", ["format", "recipe", "range", "shape", "classes", "hash"])
def test_a_header_with_a_hole(key, good, tmp_path):
    data = contents(good)
    del data["diffgen"][key]
    if key != "hash":
        seal_again(data)
    assert "damaged" in refusal(saved(data, tmp_path / "x.ckpt"))


@pytest.mark.parametrize("value", [None, True, 7, "unet", [[]]])
@pytest.mark.parametrize("group", ["network", "schedule", "prediction", "dataset", "trainer"])
def test_a_recipe_whose_group_is_none(group, value, good, tmp_path):
    data = contents(good)
    data["diffgen"]["recipe"][group] = value
    seal_again(data)
    line = refusal(saved(data, tmp_path / "x.ckpt"))
    assert line.endswith(f"is damaged: its recipe.{group} is none")


def seal_again(data):
    """As somebody would who knows how."""
    for key in ("hash", "training_hash"):
        data["diffgen"].pop(key, None)
    seal(data)


def test_weights_for_another_number_of_classes(good, tmp_path):
    data = contents(good)
    data["diffgen"]["classes"] = ["a", "b"]
    seal_again(data)
    line = refusal(saved(data, tmp_path / "x.ckpt"))
    assert "2 classes" in line
    assert "11" in line  # the rows that the weights have: ten classes and the null label


RECIPES = {
    "unknown name": ("network", {"name": "os"}, "no network=os"),
    "target": ("network", {"name": "unet", "_target_": "os.system"}, "no network._target_"),
    "foreign class": ("network", {"name": "os:system"}, "outside diffgen"),
    "path": ("network", {"name": "../cli"}, "no network=../cli"),
    "unknown key": ("schedule", {"name": "linear", "betamax": 1}, "did you mean beta_max"),
    "text": ("schedule", {"name": "linear", "levels": "${oc.env:HOME}"}, "schedule.levels="),
    "prediction": ("prediction", {"name": "noise"}, "no prediction=noise"),
}


@pytest.mark.parametrize(("key", "value", "answer"), RECIPES.values(), ids=RECIPES)
def test_a_recipe_selects_no_code(key, value, answer, good, tmp_path):
    data = contents(good)
    data["diffgen"]["recipe"][key] = value
    seal_again(data)
    found = checkpoint.load(saved(data, tmp_path / "x.ckpt"))
    with pytest.raises(UsageError, match=re.escape(answer)):
        found.denoiser()


SMALL = {"width": 16, "multipliers": [1], "attention": []}
MADE = {
    "unet": {**SMALL, "groups": 4},
    "song_unet": {**SMALL, "multipliers": [1, 1], "taps": [1, 3, 3, 1], "encoder": "residual"},
    "mp_unet": SMALL,
    "dit": {"width": 16, "depth": 1, "heads": 2},
    "dilated": {"width": 16, "groups": 4},
}


@pytest.mark.parametrize("name", MADE)
def test_a_network_takes_the_tensors_of_the_file_and_computes_as_one_in_memory(name, good):
    found = checkpoint.load(good)
    recipe = {**found.recipe, "network": {"name": name, **MADE[name]}}
    wanted = replace(found, recipe=recipe).denoiser_recipe().denoiser((1, 8, 8), 10).eval()
    state = {key: value.normal_() for key, value in wanted.network.state_dict().items()}
    made = replace(found, recipe=recipe, states={"raw": state}).denoiser()
    x, t = torch.randn(2, 1, 8, 8), torch.tensor(0.5, dtype=torch.float64)
    assert torch.equal(made(x, t, torch.tensor([1, 2])), wanted(x, t, torch.tensor([1, 2])))
    for key, value in made.network.state_dict().items():
        assert value.data_ptr() == state[key].data_ptr()


def test_another_packages_class_needs_trust(good, tmp_path):
    data = contents(good)
    name = "torch.nn.modules.flatten:Flatten"
    data["diffgen"]["recipe"] |= {"network": {"name": name}, "trust": ["torch"]}
    seal_again(data)
    path = saved(data, tmp_path / "x.ckpt")
    with pytest.raises(
        UsageError, match="Flatten is code outside diffgen; if you trust it, add trust=torch"
    ):
        checkpoint.load(path).denoiser_recipe()
    recipe = checkpoint.load(path, trust=["torch"]).denoiser_recipe()
    assert isinstance(recipe.denoiser((1, 8, 8), 10).network, torch.nn.Flatten)


@pytest.mark.parametrize("words", [("sample", "checkpoint="), ("train", "resume=")], ids=str)
def test_the_commands_refuse_bad_files_in_one_line(words, good, tmp_path):
    command, key = words
    code = saved({"diffgen": Payload(tmp_path / "ran")}, tmp_path / "code.ckpt")
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(good.read_bytes()[:-999])
    changed, fewer = contents(good), contents(good)
    next(iter(changed["state_dict"].values())).flatten()[0] += 1
    fewer["diffgen"]["classes"] = ["a", "b"]
    seal_again(fewer)
    answers = {
        code: "may run code",
        torn: "truncated",
        tmp_path / "none.ckpt": "no checkpoint at",
        saved({"state_dict": {}}, tmp_path / "foreign.ckpt"): "of another program",
        saved(changed, tmp_path / "changed.ckpt"): "was changed after it was written",
        saved(fewer, tmp_path / "fewer.ckpt"): "classes"
        if command == "sample"
        else "learned a, b",
    }
    for path, answer in answers.items():
        done = here(tmp_path, command, f"{key}{path}")
        assert done.status == 2
        assert answer in done.line()
    assert not (tmp_path / "ran").exists()


def test_latest_is_the_newest_of_all_runs(tmp_path):
    with pytest.raises(UsageError, match="train one with `diffgen train` first"):
        locate("latest", tmp_path)
    for k, run in enumerate(("a/2", "b/1", "a/1")):
        path = tmp_path / run / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (k, k))
    newest = tmp_path / "a/1/checkpoints/last.ckpt"
    assert locate("latest", tmp_path) == newest
    assert locate(str(tmp_path / "a/1"), tmp_path) == newest
    assert locate(str(tmp_path / "a/1/checkpoints"), tmp_path) == newest
    with pytest.raises(UsageError, match="is an address: download the file"):
        locate("https://example.org/a.ckpt", tmp_path)
    assert locate(str(newest), tmp_path) == newest
    with pytest.raises(
        UsageError, match=r"no best\.ckpt in .*, where evaluate\.every=N .* last\.ck"
    ):
        locate(str(tmp_path / "a/1/best"), tmp_path)
    assert "every" in settings("train")["evaluate"]  # which the line names


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old")

    def die(file):
        file.write(b"half of the new")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        write_atomically(path, die)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert path.read_bytes() == b"old"
    (leftover,) = tmp_path.glob(".*.partial")
    keeper = CheckpointSaver(tmp_path, Ema({}), 1, None)
    keeper.on_train_start(SimpleNamespace(global_step=0, is_global_zero=True), None)
    keeper.on_train_end(None, None)
    assert not leftover.exists()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_stays(tmp_path, make):
    path, ready = tmp_path / "x[1].npz", tmp_path / "ready"
    child = os.fork()
    if child == 0:
        with partial_of(path, make):
            ready.touch()
            signal.pause()
    while not ready.exists():
        time.sleep(0.01)
    (tmp_path / ".x1.npz.a.partial").touch()  # of another file
    with partial_of(path, make):
        held = len(list(tmp_path.glob(".x[[]1].npz.*.partial")))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert held == 2
    assert len(list(tmp_path.glob(".x[[]1].npz.*.partial"))) == 1
    write_atomically(path, lambda file: file.write(b"whole"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [".x1.npz.a.partial", "ready", path.name]


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old")

    def fill(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=f"the disk of {tmp_path} is full"):
        write_atomically(path, fill)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert path.read_bytes() == b"old"


def test_a_file_is_synced_before_it_takes_the_place_of_the_old(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, r=real, n=name: (calls.append(n), r(*a))[1])
    SealedCheckpointIO(lambda _: None, dict).save_checkpoint({"a": 1}, tmp_path / "x.ckpt")
    assert calls == ["fsync", "replace"]
    assert contents(tmp_path / "x.ckpt") == {"a": 1}


class Trainer(SimpleNamespace):
    """What a keeper sees of a trainer: one of two ranks, of which the other may want to stop."""

    def __init__(self, other=False):
        strategy = SimpleNamespace(reduce_boolean_decision=self.decide)
        super().__init__(global_step=0, max_steps=6, is_global_zero=True, strategy=strategy)
        self.other, self.should_stop, self.saved, self.asked = other, False, [], 0
        self.network = torch.nn.Linear(1, 1)
        self.lightning_module = SimpleNamespace(denoiser=SimpleNamespace(network=self.network))

    def decide(self, stop, all):
        assert not all
        self.asked += 1
        return stop or self.other

    def save_checkpoint(self, path, weights_only):
        assert not weights_only
        self.saved.append(self.global_step)
        path.write_bytes(b"%d" % self.global_step)


def kept(tmp_path, trainer, steps, micro_batches=1, every=100, snapshot=None, before=None):
    keeper = CheckpointSaver(tmp_path, Ema({}), every, snapshot)
    keeper.on_train_start(trainer, None)
    for _ in range(steps):
        for left in reversed(range(micro_batches)):
            if before and (trainer.global_step, left) == before:
                os.kill(os.getpid(), signal.SIGTERM)
            trainer.global_step += left == 0
            keeper.on_train_batch_end(trainer, None)
    keeper.on_train_end(trainer, None)
    return keeper


def test_checkpoints_come_at_their_steps_and_at_the_end(tmp_path):
    trainer = Trainer()
    kept(tmp_path, trainer, 6, every=4, snapshot=3)
    assert trainer.saved == [3, 4, 6]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["last.ckpt", "step_0000003.ckpt", "step_0000006.ckpt"]


@torch.no_grad()
def test_weights_that_are_not_finite_never_replace_good_ones(tmp_path):
    trainer = Trainer()
    kept(tmp_path, trainer, 4, every=4)
    trainer.network.weight.fill_(torch.nan)
    with pytest.raises(Diverged, match="not finite at step 6; lower"):
        kept(tmp_path, trainer, 2, every=4)
    assert trainer.saved == [4]
    assert (tmp_path / "last.ckpt").read_bytes() == b"4"


def test_where_there_are_no_links_a_step_is_kept_as_a_copy(tmp_path, monkeypatch):
    def linkless(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", linkless)
    trainer = Trainer()
    kept(tmp_path, trainer, 6, every=4, snapshot=3)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["last.ckpt", "step_0000003.ckpt", "step_0000006.ckpt"]
    assert (tmp_path / "step_0000003.ckpt").read_bytes() == b"3"
    (tmp_path / "last.ckpt").write_bytes(b"another")
    assert (tmp_path / "step_0000006.ckpt").read_bytes() == b"6"


def test_a_signal_stops_after_the_whole_step_and_ranks_always_ask_alike(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    trainer = Trainer()
    keeper = kept(tmp_path, trainer, 3, micro_batches=2, before=(1, 1))
    assert keeper.stopped == signal.SIGTERM
    assert trainer.should_stop
    assert trainer.saved == [2, 3]  # the stub goes on; the trainer would have stopped at 2
    assert trainer.asked == 3
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_signal_of_another_rank_stops_this_one(tmp_path):
    trainer = Trainer(other=True)
    assert kept(tmp_path, trainer, 1).stopped == signal.SIGTERM
    assert trainer.saved == [1]
