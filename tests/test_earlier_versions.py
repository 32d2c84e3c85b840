"""Checkpoints, tuned times and cells that diffgen 0.1.0 wrote, read by today's diffgen."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from running import contents, here, tree, worked
from safetensors.torch import load_file
from torch import Tensor

from diffgen import load
from diffgen.errors import UsageError
from diffgen.evaluation.rows import EARLIER, blocks, pooled
from diffgen.evaluation.table import main_cells
from diffgen.runs import checkpoint
from diffgen.runs.cell import Cell
from diffgen.runs.checkpoint_format import FORMAT
from diffgen.runs.upgrade import upgraded
from diffgen.sampling.request import request_of

DATA = Path(__file__).parent / "data" / "0.1.0"
OUTPUTS = load_file(DATA / "outputs.safetensors")
NAMES = sorted(path.stem for path in DATA.glob("*.ckpt"))
KEPT = [key for key in OUTPUTS if key.rpartition("/")[2] not in ("x", "t")]

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def run(tmp_path) -> Path:
    """A run's folder with the checkpoint of model=ddpm in it."""
    folder = tmp_path / "runs" / "digits_ddpm" / "ddpm"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(DATA / "ddpm.ckpt", folder / "checkpoints" / "last.ckpt")
    return folder


def answer(name: str, weights: str) -> Tensor:
    """What a checkpoint's network makes of the inputs that are kept beside it."""
    found = checkpoint.load(DATA / f"{name}.ckpt")
    x, t = OUTPUTS[f"{name}/x"], OUTPUTS[f"{name}/t"]
    with torch.no_grad():
        if name == "classifier":
            return found.classifier(weights)(x, t)
        return found.denoiser(weights)(x, t, torch.tensor([1, 2, 3]))


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_read_as_one_of_today(name):
    found = checkpoint.load(DATA / f"{name}.ckpt")
    assert contents(DATA / f"{name}.ckpt")["diffgen"]["format"] == 1 != FORMAT
    assert {"model", "times", "schedule", "network"} <= found.recipe.keys()
    assert not {"prediction", "times", "weighting", "gamma"} & found.recipe["model"].keys()
    assert any(key.startswith(f"{name}/") for key in KEPT)


@pytest.mark.parametrize("key", KEPT)
def test_its_weights_give_the_outputs_that_they_gave(key):
    name, _, weights = key.partition("/")
    torch.testing.assert_close(answer(name, weights), OUTPUTS[key], rtol=1e-6, atol=1e-6)


def test_training_goes_on_from_it_and_writes_todays_format(run, tmp_path):
    words = ("trainer.accelerator=cpu", "trainer.max_steps=5", "preview.every=0")
    done = worked(here(tmp_path, "train", f"resume={run}", *words))
    assert tmp_path / done.folder == run
    found = contents(run / "checkpoints" / "last.ckpt")
    assert (found["diffgen"]["format"], found["global_step"]) == (FORMAT, 5)
    before = upgraded(contents(DATA / "ddpm.ckpt"))
    assert found["state_dict"].keys() == before["state_dict"].keys()
    assert found["diffgen"]["recipe"]["prediction"] == {"name": "eps"}
    load(run / "checkpoints" / "last.ckpt")


def test_a_setting_that_contradicts_it_is_refused(run, tmp_path):
    done = here(tmp_path, "train", f"resume={run}", "prediction=v")
    assert done.status == 2
    assert done.line().startswith("prediction.name=v contradicts the checkpoint's eps")


def test_times_tuned_for_it_are_found(run):
    (kept,) = DATA.glob("*.yaml")
    (run / "tuned").mkdir()
    shutil.copy(kept, run / "tuned" / kept.name)
    words = ("sampler=ddim", "steps=3", "spacing=tuned", "metrics=[]")
    plan = request_of(tree("sample", f"checkpoint={run}", *words)).plan
    assert plan.times.tolist() == [1.0, 0.7858165115911627, 0.5141821826233123, 0.0]


def test_its_row_stands_in_a_table_beside_one_of_today(run, tmp_path):
    """The same way of sampling, written by both: one way with two seeds."""
    earlier = json.loads((DATA / "cell" / "result.json").read_text())
    words = ("sampler=heun", "steps=3", "guidance.weight=1", "metrics=[]", "num_samples=4")
    worked(here(tmp_path, "sample", f"checkpoint={run}", *words, "seed=1", "accelerator=cpu"))
    (cell,) = run.glob("cells/*")
    today = Cell(cell).row
    assert today is not None
    assert "identity" not in earlier
    assert {key: today[key] for key in EARLIER} == {key: earlier[key] for key in EARLIER}
    scores = {"n": 4, "features": "f", "features_hash": "0", "reference": "r", "fid": 1.0}
    rows = [{**row, **scores, "reference_hash": "1"} for row in (earlier, today)]
    (block,) = blocks(rows)
    assert len(main_cells(block)[1]) == 2
    (way,) = pooled(rows)
    assert way["seeds"] == 2


def test_images_of_its_cell_are_read():
    found = Cell(DATA / "cell").images()
    assert found is not None
    assert found[0].dtype == torch.uint8
    assert found[0].shape[1:] == (1, 8, 8)


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_weight_is_refused(name, tmp_path):
    data = contents(DATA / f"{name}.ckpt")
    weights = next(iter(data["state_dict"].values()))
    weights.view(-1)[0] += 1
    torch.save(data, tmp_path / "x.ckpt")
    with pytest.raises(UsageError, match="was changed after it was written"):
        checkpoint.load(tmp_path / "x.ckpt")
