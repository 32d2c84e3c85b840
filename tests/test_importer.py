"""`diffgen import`: released files become checkpoints that `diffgen sample` reads."""

import csv
import io
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import test_families
import torch
import yaml
from diffusers.models.unets.unet_2d import UNet2DModel
from PIL import Image
from running import Done, here, worked
from test_families import nvlabs
from test_import import LADDER, images, save, theirs, write_config
from test_interop import CIFAR10, shaken
from torch.testing import assert_close

import diffgen
from diffgen.interop.parameter_names import CONDITIONAL, UNCONDITIONAL, ddim_names, ncsn_names
from diffgen.interop.rules import RULES
from diffgen.network.ncsn_refinenet import NCSNRefineNet
from diffgen.network.refinenet import RefineNet
from diffgen.network.unet import UNet
from diffgen.runs.checkpoint import load

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


def released_ncsnv2(folder: Path) -> tuple[Path, dict]:
    network = shaken(RefineNet(channels=3, size=8, width=4))
    state = theirs(network, ncsn_names(network, UNCONDITIONAL)) | {"sigmas": LADDER}
    return save(folder / "checkpoint_5.pth", state, 3, 5, state), {"data": {"image_size": 8}}


def released_ncsn(folder: Path) -> tuple[Path, dict]:
    network = shaken(NCSNRefineNet(channels=3, size=8, width=4, levels=4))
    state = theirs(network, ncsn_names(network, CONDITIONAL))
    return save(folder / "checkpoint.pth", state), {"data": {"image_size": 8}}


def released_ddim(folder: Path) -> tuple[Path, dict]:
    settings = {"width": 32, "multipliers": (1, 2), "blocks": 1, "exact_groups": True}
    network = shaken(UNet(channels=3, size=32, **settings))
    state = theirs(network, ddim_names(network.state_dict()))
    return save(folder / "ckpt.pth", state, 1, 9, state), {}


def released_diffusers(folder: Path) -> tuple[Path, dict]:
    shaken(UNet2DModel(**CIFAR10 | narrow(groups=2))).save_pretrained(folder / "unet")
    return folder / "unet", {}


RELEASED = {
    "ncsn": released_ncsn,
    "ncsnv2": released_ncsnv2,
    "ddim": released_ddim,
    "ddpm-diffusers": released_diffusers,
}
FAMILIES = {kind: (name, more) for name, (kind, more) in test_families.KINDS.items()}


def released_as(kind: str, folder: Path) -> tuple[Path, dict]:
    """A small file of this kind, and what its configuration says."""
    if kind in RELEASED:
        return RELEASED[kind](folder)
    name, settings = FAMILIES[kind]
    return test_families.written(folder / f"{name}.pt", name), settings


@pytest.mark.usefixtures(nvlabs.__name__)
@pytest.mark.parametrize("kind", RULES)
def test_each_kind_is_imported_swept_and_tabulated(kind, tmp_path, pictures):
    path, said = released_as(kind, tmp_path)
    (tmp_path / "said.yml").write_text(yaml.dump(said))
    more = ("--config", "said.yml") if said else ()
    done = worked(here(tmp_path, "import", kind, str(path), "there", *more))
    told_again(tmp_path, kind, path.name, done.out.splitlines()[1:-1])
    words = (f"root={pictures}", "sampler=ddim", "steps=1,2", "num_samples=8", "batch_size=8")
    scored = ("features=random", "metrics=[fid]", "n=8")
    said = worked(here(tmp_path, "sample", "-m", "checkpoint=there", *words, *scored)).out
    told = worked(here(tmp_path, "table", "there", "--format", "csv")).out
    rows = [row for row in csv.DictReader(io.StringIO(told)) if row["sampler"]]
    assert [(row["steps"], row["nfe"]) for row in rows] == [("1", "1.0"), ("2", "2.0")]
    assert {row["checkpoint_hash"] for row in rows} == {checkpoint_hash(tmp_path / "there")}
    fids = [float(row["fid"]) for row in rows]
    assert fids[0] != fids[1]
    assert all(f"{fid:.4g}" in said for fid in fids)
    drawn = [np.load(file)["arr_0"] for file in (tmp_path / "there").rglob("samples.npz")]
    assert [images.shape for images in drawn] == [(8, *drawn[0].shape[1:3], 3)] * 2
    assert (drawn[0] != drawn[1]).any()


def told_again(folder: Path, kind: str, name: str, said: list[str]) -> None:
    """By `explain`: what the import said that it read the file as, and what it assumed."""
    told = " ".join(worked(here(folder, "explain", "checkpoint=there")).out.split())
    assert f"from {name}, a file of {kind}" in told
    assert said[0].startswith("read as: schedule=")
    assert kind == "ncsnv2" or any("assumed, as no file says it: " in line for line in said)
    assert not [line for line in said if line not in told.replace(" imported ", " ")]


def checkpoint_hash(run: Path) -> str:
    return load(run / "checkpoints" / "last.ckpt").hash[:12]


def test_an_import_is_not_resumed_but_begun_from(released, pictures, tmp_path):
    worked(here(tmp_path, "import", "ncsnv2", str(released[0]), "there"))
    data = ("dataset=folder", "dataset.size=16", "dataset.channels=3", f"dataset.root={pictures}")
    steps = ("trainer.max_steps=1", "trainer.batch_size=4", "preview.every=0", "logger=none")
    line = here(tmp_path, "train", "resume=there", *data, *steps).line()
    assert "there/checkpoints/last.ckpt holds weights and no training to go on with" in line
    remedy = re.search(r"by (model=\S+) (init=\S+) in place of resume=$", line)
    assert remedy
    worked(here(tmp_path, "train", *remedy.groups(), *data, *steps))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of pictures to compare with, of any size that is asked for up to 32 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    for k, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{k}.png")
    return folder


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


@pytest.fixture(scope="module")
def adm(tmp_path_factory) -> dict[str, torch.Tensor]:
    path = test_families.written(tmp_path_factory.mktemp("adm") / "adm.pt", "adm")
    return torch.load(path, weights_only=True)


def test_weights_of_torchs_parallel_modules_and_of_half_precision_are_read(adm, tmp_path):
    wrapped = {f"module.{key}": value.half() for key, value in adm.items()}
    torch.save(wrapped, tmp_path / "wrapped.pt")
    worked(here(tmp_path, "import", "adm", "wrapped.pt", "there", "--size", "8"))
    found = load(tmp_path / "there" / "checkpoints" / "last.ckpt").weights()
    assert torch.equal(found["ascents.0.leave.2.bias"], adm["out.2.bias"].half().float())


def test_files_of_another_kind_are_refused_by_their_names(adm, released, ddpm, tmp_path):
    folder, others = str(released[0].parent), tmp_path / "others"
    others.mkdir()
    torch.save(adm, others / "adm.pt")
    torch.save(adm | {"out.2.bias": adm["out.2.bias"] / 0}, others / "infinite.pt")
    own = str(ddpm / "checkpoints" / "last.ckpt")
    for kind in ("adm", "ncsn", "edm", "score_sde", "dit"):
        assert f"{folder} is a folder: name the file in it" in refused(tmp_path, kind, folder)
    for kind in ("adm", "ncsnv2", "ddim", "score_sde", "dit"):
        assert "is a checkpoint of diffgen: checkpoint= and" in refused(tmp_path, kind, own)
    assert "take `diffgen import adm`" in refused(others, "improved-diffusion", "adm.pt")
    line = refused(others, "adm", "infinite.pt", "there", "--size", "8")
    assert "the weights in infinite.pt are not finite" in line
    assert not (others / "there").exists()


@pytest.mark.usefixtures(nvlabs.__name__)
def test_a_size_or_a_configuration_that_the_file_contradicts_is_refused(tmp_path):
    test_families.written(tmp_path / "edm.pkl", "ddpmpp")
    test_families.written(tmp_path / "dit.pt", "dit")
    (tmp_path / "heads.yml").write_text("num_heads: 3")
    line = "is of images of 8 pixels"
    assert line in refused(tmp_path, "edm", "edm.pkl", "--size", "64")
    dit = ("dit", "dit.pt", "--config", "heads.yml")
    assert line in refused(tmp_path, *dit, "--size", "64")
    path, _ = released_ncsn(tmp_path)
    line = refused(tmp_path, "ncsn", str(path), "--config", "heads.yml", "--size", "8")
    assert line == "--config heads.yml: it holds none of data, model"


def test_a_data_set_that_no_file_tells_of(released, tmp_path):
    path, _ = released
    (tmp_path / "config.yml").unlink()
    told = worked(here(tmp_path, "import", "ncsnv2", str(path), "a", "--size", "16"))
    assert "metrics need root=FOLDER" in told.out
    worked(here(tmp_path, "import", "ncsnv2", str(path), "b", "--size", "16", "--dataset", "svhn"))
    recipes = [torch.load(tmp_path / f"{name}/checkpoints/last.ckpt")["diffgen"] for name in "ab"]
    names = [recipe["recipe"]["dataset"]["name"] for recipe in recipes]
    assert names == ["folder", "svhn"]
    line = refused(tmp_path, "ncsnv2", str(path), "c", "--size", "16", "--dataset", "digits")
    assert "--dataset digits: its images have 1 channels, those of this network 3" in line
    worked(here(tmp_path, "import", "ncsnv2", str(path), "c", "--size", "16", "--dataset", "ffhq"))
    kept = torch.load(tmp_path / "c/checkpoints/last.ckpt")["diffgen"]["recipe"]["dataset"]
    assert kept == {"name": "ffhq", "size": 16}


def test_images_of_another_size_are_no_reference(tmp_path):
    network = shaken(RefineNet(channels=1, size=16, width=4))
    state = theirs(network, ncsn_names(network, UNCONDITIONAL)) | {"sigmas": LADDER}
    path = str(save(tmp_path / "grey.pth", state))
    worked(here(tmp_path, "import", "ncsnv2", path, "d", "--size", "16", "--dataset", "digits"))
    scored = ("num_samples=3", "steps=4", "sampler=heun", "metrics=[fid]", "features=random")
    line = here(tmp_path, "sample", "checkpoint=d", *scored).err
    assert "of this model are 16x16 of 1 channel, those of digits 8x8 of 1 channel" in line


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
    line = "assumed, as no file says it: scheduler.beta_schedule=linear"
    assert line in told
    again = " ".join(worked(here(tmp_path, "explain", "checkpoint=d.ckpt")).out.split())
    assert "a file of ddpm-diffusers" in again
    assert line in again


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
