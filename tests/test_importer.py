"""`diffgen import`: released files become checkpoints that `diffgen sample` reads."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from running import Done, here, worked
from test_import import LADDER, images, save, theirs, write_config
from test_interop import CIFAR10, shaken
from torch.testing import assert_close

import diffgen
from diffgen.interop.parameter_names import CONDITIONAL, UNCONDITIONAL, ddim_names, ncsn_names
from diffgen.network.ncsn_refinenet import NCSNRefineNet
from diffgen.network.refinenet import RefineNet
from diffgen.network.unet import UNet

FEW = ("metrics=[]", "num_samples=3", "batch_size=3")


@pytest.fixture
def released(tmp_path: Path) -> tuple[Path, RefineNet]:
    """NCSNv2's file with its config, and the network that is its average."""
    make = partial(RefineNet, channels=3, size=16, width=4)
    network, average = shaken(make()), shaken(make())
    names = ncsn_names(network, UNCONDITIONAL)
    state = theirs(network, names) | {"sigmas": LADDER}
    path = save(tmp_path / "checkpoint_5.pth", state, 3, 5, theirs(average, names))
    write_config(tmp_path / "config.yml", data={"dataset": "CIFAR10", "image_size": 16})
    return path, average


def drawn(folder: Path, *words: str) -> np.ndarray:
    done = worked(here(folder, "sample", *FEW, *words))
    return np.load(folder / done.folder / "samples.npz")["arr_0"]


def test_an_imported_average_is_what_samples_come_from(released, tmp_path):
    path, average = released
    done = worked(here(tmp_path, "import", "ncsnv2", str(path)))
    assert done.folder == Path("runs/cifar10_ncsnv2/imported_checkpoint_5")
    assert "step 5, with its average" in done.out
    denoiser, schedule, pixel_range = diffgen.load(tmp_path / done.folder)
    x, t = images(3, 16), torch.tensor(1.0, dtype=torch.float64)
    with torch.no_grad():
        score = average(x, None) / 20
    assert_close(denoiser.score(x, t), score, rtol=1e-4, atol=1e-6)
    assert schedule.sigma(t) == pytest.approx(20.0)
    assert (pixel_range.low, pixel_range.high) == (0, 1)


def test_it_is_sampled_as_any_other(released, tmp_path):
    worked(here(tmp_path, "import", "ncsnv2", str(released[0]), "there"))
    own = drawn(tmp_path, "checkpoint=there", "sampler=langevin", "sampler.inner=2")
    heun = drawn(tmp_path, "checkpoint=there", "sampler=heun", "steps=4")
    raw = drawn(tmp_path, "checkpoint=there", "sampler=heun", "steps=4", "ema=raw")
    assert own.shape == heun.shape == (3, 16, 16, 3)
    assert (heun != raw).any()


def test_ncsn_is_asked_at_its_own_levels(tmp_path):
    network = shaken(NCSNRefineNet(channels=1, size=8, width=4, levels=4))
    state = theirs(network, ncsn_names(network, CONDITIONAL))
    path = save(tmp_path / "checkpoint.pth", state)
    worked(here(tmp_path, "import", "ncsn", str(path), "one.ckpt", "--size", "8"))
    asked: Done = here(tmp_path, "sample", *FEW, "checkpoint=one.ckpt", "steps=5")
    assert asked.status == 2
    assert "4 levels" in asked.line()
    assert drawn(tmp_path, "checkpoint=one.ckpt", "steps=3").shape == (3, 8, 8, 1)


def test_ddim_and_diffusers_become_checkpoints_that_sample(tmp_path):
    wide = {"width": 32, "multipliers": (1, 2), "blocks": 1, "exact_groups": True}
    network = shaken(UNet(channels=3, size=32, **wide))
    state = theirs(network, ddim_names(network.state_dict()))
    path = save(tmp_path / "ckpt.pth", state, 1, 9, state)
    worked(here(tmp_path, "import", "ddim", str(path), "one"))
    released = shaken(UNet2DModel(**CIFAR10 | narrow(groups=2)))
    released.save_pretrained(tmp_path / "saved")
    worked(here(tmp_path, "import", "ddpm-diffusers", str(tmp_path / "saved"), "two"))
    denoiser, _, _ = diffgen.load(tmp_path / "two")
    x, t = torch.randn(2, 3, 32, 32), torch.tensor(0.5, dtype=torch.float64)
    with torch.no_grad():
        assert_close(denoiser.eps(x, t), released(x, 499).sample, rtol=1e-4, atol=1e-4)
    for run in ("one", "two"):
        assert drawn(tmp_path, f"checkpoint={run}", "steps=2").shape == (3, 32, 32, 3)


def narrow(groups: int) -> dict:
    """Options of a UNet2DModel of few channels."""
    return {"block_out_channels": (8, 16, 16, 16), "norm_num_groups": groups}


def refused(tmp_path: Path, *words: str) -> str:
    done = here(tmp_path, "import", *words)
    assert done.status == 2
    return done.line()


def test_refusals(released, tmp_path):
    path = str(released[0])
    assert "did you mean ncsn" in refused(tmp_path, "ncsn2", path)
    assert "no file at" in refused(tmp_path, "ncsn", "nowhere.pth")
    assert "another kind" in refused(tmp_path, "ncsn", path)
    assert "no dataset=cifar" in refused(tmp_path, "ncsnv2", path, "--dataset", "cifar")
    assert "required: PATH" in refused(tmp_path, "ncsnv2")
    worked(here(tmp_path, "import", "ncsnv2", path, "out.ckpt"))
    before = (tmp_path / "out.ckpt").read_bytes()
    assert "is there already" in refused(tmp_path, "ncsnv2", path, "out.ckpt")
    assert (tmp_path / "out.ckpt").read_bytes() == before


def test_a_data_set_that_no_file_tells_of(released, tmp_path):
    path, _ = released
    (tmp_path / "config.yml").unlink()
    told = worked(here(tmp_path, "import", "ncsnv2", str(path), "a", "--size", "16"))
    assert "metrics need root=FOLDER" in told.out
    worked(here(tmp_path, "import", "ncsnv2", str(path), "b", "--size", "16", "--dataset", "svhn"))
    recipes = [torch.load(tmp_path / f"{name}/checkpoints/last.ckpt")["diffgen"] for name in "ab"]
    names = [recipe["recipe"]["dataset"]["name"] for recipe in recipes]
    assert names == ["folder", "svhn"]


def test_what_was_assumed_is_told(released, tmp_path):
    path = str(released[0])
    told = worked(here(tmp_path, "import", "ncsnv2", path, "a.ckpt")).out
    assert (
        "schedule=geometric (sigma_max=20.0, sigma_min=0.02, levels=4), prediction=score" in told
    )
    assert "assumed" not in told
    (tmp_path / "config.yml").rename(tmp_path / "of_run_5.yml")
    line = refused(tmp_path, "ncsnv2", path, "b.ckpt")
    assert line.endswith("give --size 32, or the run's configuration by --config FILE")
    told = worked(here(tmp_path, "import", "ncsnv2", path, "b.ckpt", "--config", "of_run_5.yml"))
    assert "for 3 x 16 x 16" in told.out
    assert "is no text" in refused(tmp_path, "ncsnv2", path, "c.ckpt", "--config", path)
    other = UNet2DModel(**CIFAR10 | {"block_out_channels": (8, 16, 16, 16), "norm_num_groups": 8})
    other.save_pretrained(tmp_path / "saved")
    told = worked(here(tmp_path, "import", "ddpm-diffusers", "saved", "d.ckpt")).out
    assert "assumed, as no file says it: scheduler.beta_schedule=linear" in told


def test_settings_are_refused_before_torch_is_imported(released, tmp_path):
    (tmp_path / "config.yml").write_text("model: {nonlinearity: relu}\ndata: {rescaled: true}")
    code = "import sys; from diffgen.cli.main import main; print(main(sys.argv[1:])); "
    code += "print(sorted({'torch', 'diffusers', 'hydra', 'pydantic'} & sys.modules.keys()))"
    words = [sys.executable, "-c", code, "import", "ncsnv2", str(released[0])]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines() == ["2", "[]"]
    assert "data.rescaled=True (only False), model.nonlinearity=relu (only elu)" in done.stderr


def test_help_names_the_kinds(tmp_path, capsys):
    done = here(tmp_path, "import", "--help")
    assert done.status == 0
    assert "ncsn, ncsnv2, ddim, ddpm-diffusers" in done.out
