"""init=PATH: what a new run takes from a checkpoint, what begins anew, and what is refused."""

import re
import shutil

import pytest
import torch
from running import TINY, contents, here, worked

from diffgen.commands.initial_weights import fill
from diffgen.errors import UsageError
from diffgen.runs import checkpoint

SHORT = ("trainer.accelerator=cpu", "trainer.batch_size=16", "preview.every=0", "logger=none")
ONE = (*SHORT, "trainer.max_steps=1", "optimizer.warmup=0")


def drawn(found, shape, classes):
    """A network of its recipe for other images, and a copy of its first random weights."""
    torch.manual_seed(1)
    network = found.denoiser_recipe().raw_network(shape, len(classes))
    return network, {key: value.clone() for key, value in network.state_dict().items()}


@pytest.mark.parametrize("ema", [None, "raw", "quick"])
def test_the_chosen_weights_are_taken(ema, ddpm):
    found = checkpoint.load(ddpm / "checkpoints" / "last.ckpt")
    network, _ = drawn(found, found.shape, found.classes)
    fill(network, found.denoiser_recipe(), found.shape, found.classes, found, ema)
    for key, weight in network.state_dict().items():
        assert torch.equal(weight, found.states[ema or "average"][key])


@pytest.mark.parametrize("classes", [("a", "b"), tuple("abcdefghij"), ()], ids=len)
def test_what_embeds_labels_of_other_classes_begins_anew(classes, ddpm):
    """Also where their number is the same: other names are other classes."""
    found = checkpoint.load(ddpm / "checkpoints" / "last.ckpt")
    network, first = drawn(found, found.shape, classes)
    fill(network, found.denoiser_recipe(), found.shape, classes, found, None)
    for key, weight in network.state_dict().items():
        labels = key.startswith("condition.label")
        assert torch.equal(weight, (first if labels else found.weights(None))[key]), key


def test_weights_of_other_images_are_refused(ddpm):
    found = checkpoint.load(ddpm / "checkpoints" / "last.ckpt")
    network, _ = drawn(found, (3, 8, 8), found.classes)
    with pytest.raises(UsageError, match=r"are for images of \(1, 8, 8\) and do not fit"):
        fill(network, found.denoiser_recipe(), (3, 8, 8), found.classes, found, None)


def test_weights_of_a_network_of_other_sizes_are_refused_as_such(ddpm):
    found = checkpoint.load(ddpm / "checkpoints" / "last.ckpt")
    network, _ = drawn(found, found.shape, found.classes)
    network.get_submodule("condition").level[0] = torch.nn.Linear(3, 3)
    with pytest.raises(
        UsageError, match=r"other sizes \(condition.level.0.* leave out the setting"
    ):
        fill(network, found.denoiser_recipe(), found.shape, found.classes, found, None)


def test_a_run_begins_from_weights_records_them_and_goes_on_without_them(ddpm, tmp_path):
    source = shutil.copytree(ddpm, tmp_path / "source")
    found = checkpoint.load(source / "checkpoints" / "last.ckpt")
    words = ("init=source", "init_ema=raw", "schedule=cosine", "optimizer.lr=1e-9")
    done = worked(here(tmp_path, "train", *ONE, *words))
    run = tmp_path / done.folder
    saved = contents(run / "checkpoints" / "last.ckpt")
    recipe = saved["diffgen"]["recipe"]
    assert recipe["network"] == found.recipe["network"]
    assert (recipe["schedule"]["name"], recipe["optimizer"]["lr"]) == ("cosine", 1e-9)
    assert recipe["init_hash"] == found.hash
    assert f"ema=raw of {recipe['init']}, step 40" in (run / "train.log").read_text()
    for key, weight in found.states["raw"].items():
        mine = saved["state_dict"][f"denoiser.network.{key}"]
        torch.testing.assert_close(mine, weight, rtol=0, atol=1e-7)
    told = " ".join(worked(here(tmp_path, "explain", f"checkpoint={run}")).out.split())
    assert f"last.ckpt, raw, hash {found.hash[:16]}" in told.partition("begun from")[2]
    shutil.rmtree(source)
    worked(here(tmp_path, "train", f"resume={run}", "trainer.max_steps=2", "logger=none"))
    assert contents(run / "checkpoints" / "last.ckpt")["global_step"] == 2


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("network.width=16", "network.width=16: the weights .* leave it out"),
        ("prediction=v", "prediction.name=v: the weights .* leave it out"),
        ("model.noise_input=log_sigma", "model.noise_input=log_sigma: the weights"),
        ("schedule=flow", "the weights .* leave out schedule=flow, or init="),
        ("model=flow", "are of model=ddpm, not flow: give model=ddpm"),
        ("init_ema=fast", "no weights ema=fast"),
        ("init=nowhere", "no checkpoint at .*nowhere"),
    ],
)
def test_what_the_weights_cannot_be_is_refused(word, line, ddpm, tmp_path):
    done = here(tmp_path, "train", f"init={ddpm}", word)
    assert done.status == 2
    assert re.search(line, done.line())
    assert not list(tmp_path.glob("runs/*/*/checkpoints"))


def test_another_rate_on_resuming_names_the_way_that_works(ddpm, tmp_path):
    done = here(tmp_path, "train", f"resume={ddpm}", "optimizer.lr=0.5")
    line = done.line()
    assert "optimizer.lr=0.5 contradicts the checkpoint's 0.005" in line
    assert "its rate follows from all its steps" in line
    remedy = re.search(r"by (init=\S+) in place of resume=", line)
    assert remedy
    worked(here(tmp_path, "train", *ONE, remedy[1], "optimizer.lr=0.5"))


def test_a_network_that_the_line_repeats_is_no_contradiction(ddpm, tmp_path):
    worked(here(tmp_path, "train", *TINY, *ONE, f"init={ddpm}"))
