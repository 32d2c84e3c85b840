"""`diffgen export`: what other programs load computes what the checkpoint computes."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from conftest import trained
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from running import here, settings, worked
from safetensors.torch import load_file, save_file
from test_interop import shaken
from torch import Tensor

import diffgen
from diffgen.config.recipe import DenoiserRecipe, recipe_of
from diffgen.dataset.pixels import RANGES
from diffgen.errors import UsageError
from diffgen.interop.convert import convert
from diffgen.runs import safetensors_file
from diffgen.runs.checkpoint import load
from diffgen.runs.checkpoint_format import header, seal

SMALL = (
    *("network=unet", "network.width=16", "network.multipliers=[1,2]", "network.blocks=1"),
    *("network.attention=[4]", "network.groups=4", "network.exact_groups=true"),
)
SHAPE, CLASSES = (1, 8, 8), ("no", "one", "two")
FEW = ("num_samples=4", "batch_size=4", "steps=3", "metrics=[]")


def written(path: Path, *words: str, classes: tuple[str, ...] = CLASSES) -> Path:
    """A checkpoint of random weights with the recipe of these words."""
    plain = settings("train", *words)
    recipe = recipe_of(plain)
    assert isinstance(recipe, DenoiserRecipe)
    weights = dict(shaken(recipe.raw_network(SHAPE, len(classes))).state_dict())
    said = header("0", plain, RANGES[recipe.model.range], SHAPE, classes)
    content = safetensors_file.content(said, 7, "average", weights)
    seal(content)
    torch.save(content, path)
    return path


def inputs(classes: int) -> tuple[Tensor, Tensor | None]:
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([0, 1, 2, classes]) if classes else None


# Words of a training, whether it has classes, whether `diffgen import` reads the folder again.
KINDS: dict[str, tuple[tuple[str, ...], bool, bool]] = {
    "ddpm": ((), True, True),
    "without_classes": (("schedule=cosine", "network.dropout=0.1"), False, True),
    "v": (("prediction=v", "schedule.zero_snr=true", "network.downsample=centered"), True, True),
    "scale_shift": (
        ("network.embedding=scale_shift", "network.head_width=8", "network.frequencies=cosine"),
        *(True, True),
    ),
    "no_null_label": (("model.label_dropout=0", "schedule=quadratic"), True, True),
    "learned_variance": (("model.variance=learned", "schedule=sigmoid_beta"), False, True),
    "constant": (("schedule=constant", "schedule.levels=500"), False, True),
    "flow": (("model=flow",), True, True),
    "own_table": (("schedule=sigmoid", "network.augment_dim=9", "augment=0.1"), False, False),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_diffusers_computes_the_same(kind: str, tmp_path: Path) -> None:
    words, labelled, comes_back = KINDS[kind]
    classes = CLASSES if labelled else ()
    path = written(tmp_path / "a.ckpt", *SMALL, *words, classes=classes)
    folder = tmp_path / "out"
    done = worked(here(tmp_path, "export", "diffusers", str(path), str(folder)))
    assert done.folder == folder
    found = load(path)
    denoiser = found.denoiser()
    schedule = denoiser.schedule
    pipeline: Any = DDPMPipeline.from_pretrained(folder)
    unet = UNet2DModel.from_pretrained(folder, subfolder="unet").eval()
    x, label = inputs(len(classes))
    label = label if kind != "no_null_label" or label is None else label.clamp(max=2)
    level = torch.tensor([3.0, 70.0, 400.0, 499.0], dtype=torch.float64)
    t = (level + 1) / schedule.levels if schedule.levels else level / 999
    _, _, c_in = denoiser.coefficients(t, x)
    assert_close(c_in, torch.ones_like(c_in))
    expected = denoiser.outputs(x, t, label)
    given = unet(x, level.float(), class_labels=label).sample
    assert expected.std() > 0.05
    assert_close(given, expected)
    if schedule.levels:
        signal = schedule.alpha(torch.arange(1, schedule.levels + 1) / schedule.levels) ** 2
        torch.testing.assert_close(
            pipeline.scheduler.alphas_cumprod.double(), signal, rtol=1e-4, atol=1e-6
        )
        outputs = {"eps": "epsilon", "v": "v_prediction"}[found.recipe["prediction"]["name"]]
        assert pipeline.scheduler.config["prediction_type"] == outputs
    if not labelled:
        pipeline.set_progress_bar_config(disable=True)
        assert pipeline(2, num_inference_steps=2, output_type="np").images.shape == (2, 8, 8, 1)
    if comes_back:
        again = convert("ddpm-diffusers", folder)
        assert len(again.classes) == len(classes)
        recipe = recipe_of(again.recipe)
        assert isinstance(recipe, DenoiserRecipe)
        ours = recipe.denoiser(SHAPE, len(classes))
        ours.network.load_state_dict(again.raw)
        assert_close(ours.eval().outputs(x, t, label), expected)


def assert_close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_pipeline_of_flow_matching_draws_as_eulers_steps(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ckpt", *SMALL, "model=flow", classes=())
    worked(here(tmp_path, "export", "diffusers", str(path), "out"))
    pipeline: Any = DDPMPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    seeded = torch.Generator().manual_seed(3)
    images = pipeline(2, seeded, num_inference_steps=5, output_type="pt").images
    denoiser = load(path).denoiser()
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3))
    for sigma, less in pairwise(pipeline.scheduler.sigmas.double()):
        x = x + (less - sigma).float() * denoiser.raw(x, sigma)
    assert_close(images, (x / 2 + 0.5).clamp(0, 1))


NO_COUNTERPARTS = {
    "schedule=ve": ("model=ncsnv2", "schedule=ve", "schedule.sigma_max=20"),
    "prediction=edm (only eps, v, x0)": ("model=edm", "prediction.sigma_data=0.5", *SMALL),
    "schedule=vp (only those of betas, and flow)": ("schedule=vp",),
    "schedule.shift=3 (only 1)": ("model=flow", "schedule.shift=3"),
    "network.embedding=maps (only add or scale_shift)": ("network.embedding=maps",),
    "network.downsample=pooled (only strided or centered)": ("network.downsample=pooled",),
    "norms of 4 and 8 groups (only of one number": (
        *("network.exact_groups=false", "network.groups=8"),
    ),
    "heads of 8 and 16 channels (only of one width": ("network.heads=2", "network.attention=[8]"),
    "model.range=unit (only symmetric)": ("model.range=unit",),
    "model.noise_input=log_sigma (only level)": ("model.noise_input=log_sigma",),
    "network=dit (only unet)": ("model=flow", "network=dit_digits"),
}


@pytest.mark.parametrize(("answer", "words"), NO_COUNTERPARTS.items(), ids=NO_COUNTERPARTS)
def test_what_diffusers_has_no_counterpart_of_is_named(
    answer: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    own = any(word.startswith("network=") for word in words) or "model=ncsnv2" in words
    path = written(tmp_path / "a.ckpt", *(() if own else SMALL), *words, classes=())
    done = here(tmp_path, "export", "diffusers", str(path), "out")
    assert done.status == 2
    assert answer in done.line()
    assert done.line().endswith("take `diffgen export safetensors` or `diffgen export torch`")
    assert not (tmp_path / "out").exists()


def test_all_reasons_are_named_at_once(tmp_path: Path) -> None:
    words = ("model.range=unit", "network.embedding=maps", "schedule=vp", "prediction=flow")
    path = written(tmp_path / "a.ckpt", *SMALL, *words)
    line = here(tmp_path, "export", "diffusers", str(path)).line()
    for reason in ("range=unit", "embedding=maps", "schedule=vp", "prediction=flow"):
        assert reason in line


def drawn(folder: Path, *words: str) -> np.ndarray:
    done = worked(here(folder, "sample", *FEW, *words))
    return np.load(folder / done.folder / "samples.npz")["arr_0"]


@pytest.mark.parametrize("ema", ["quick", "raw"])
def test_a_file_of_safetensors_draws_the_same_images(ema: str, ddpm: Path, tmp_path: Path) -> None:
    done = worked(here(tmp_path, "export", "safetensors", str(ddpm), "out", "--ema", ema))
    own = drawn(tmp_path, f"checkpoint={ddpm}", f"ema={ema}")
    assert (drawn(tmp_path, "checkpoint=out/model.safetensors") == own).all()
    assert done.folder == Path("out")
    weights = load(ddpm / "checkpoints" / "last.ckpt").weights(ema)
    file = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(file[key], value) for key, value in weights.items())
    told = worked(here(tmp_path, "explain", "checkpoint=out")).out
    assert "digits, 1 x 8 x 8, 10 classes" in told


@pytest.fixture(scope="module")
def posthoc(tmp_path_factory, cache) -> Path:
    words = ("ema=ddpm_posthoc", "trainer.ema_snapshots=8", "trainer.max_steps=16")
    return trained(tmp_path_factory.mktemp("posthoc"), *words)


def test_a_width_that_is_made_afterwards_can_be_written(posthoc: Path, tmp_path: Path) -> None:
    worked(here(tmp_path, "export", "safetensors", str(posthoc), "out", "--ema", "0.12"))
    written_, made = load(tmp_path / "out" / "model.safetensors"), load_run(posthoc).weights(0.12)
    assert list(written_.states) == ["raw", "width_0.12"]
    for ema in (None, 0.12):
        assert all(torch.equal(written_.weights(ema)[key], value) for key, value in made.items())
    with pytest.raises(UsageError, match="cannot be made of what this run kept"):
        written_.weights(0.05)


def load_run(run: Path) -> Any:
    return load(run / "checkpoints" / "last.ckpt")


def test_a_file_of_safetensors_is_read_as_data_and_sealed(ddpm: Path, tmp_path: Path) -> None:
    worked(here(tmp_path, "export", "safetensors", str(ddpm), "out"))
    path = tmp_path / "out" / "model.safetensors"
    whole, state = path.read_bytes(), load_file(path)
    said = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]
    key = next(iter(state))
    empty = {"step": 1, "ema": "a", "header": {}}
    spoiled = {
        "was changed after it was written": (state | {key: state[key] + 1}, said),
        "holds weights and no recipe of diffgen": (state, {"format": "pt"}),
        "is truncated, damaged": (state, said | {"diffgen": "[" * 10**5}),
        "of itself is missing": (state, said | {"diffgen": json.dumps(empty)}),
    }
    for answer, (tensors, metadata) in spoiled.items():
        save_file(tensors, path, metadata)
        assert answer in refusal(path)
    for cut in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert "is truncated, damaged" in refusal(path)
    path.write_bytes((2**62).to_bytes(8, "little") + whole[8:])
    assert "is truncated, damaged" in refusal(path)
    assert "is truncated, damaged" in here(tmp_path, "sample", "checkpoint=out").line()
    path.write_bytes(whole)
    line = here(tmp_path, "train", f"resume={path}").line()
    assert f"by model=ddpm init={path} in place of resume=" in line


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_published_files_say_nothing_of_this_machine(ddpm: Path, tmp_path: Path) -> None:
    worked(here(tmp_path, "export", "safetensors", str(ddpm), "out"))
    for file in (tmp_path / "out").iterdir():
        text = file.read_bytes().decode(errors="replace")
        assert str(Path.home()) not in text
        assert str(ddpm.parents[2]) not in text
        assert "cache" not in text


def code(folder: Path) -> str:
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert found
    return found[1]


@torch.no_grad()
def test_a_program_of_torch_computes_the_same_without_diffgen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a.ckpt", "network=dit_digits", "network.depth=1")
    worked(here(tmp_path, "export", "torch", str(path), "out"))
    denoiser, schedule, _ = diffgen.load(path)
    for name in [name for name in sys.modules if name.split(".")[0] == "diffgen"]:
        monkeypatch.setitem(sys.modules, name, None)
    with contextlib.chdir(tmp_path / "out"):
        names: dict[str, Any] = {}
        exec(code(Path()), names)
    monkeypatch.undo()
    assert names["x"].std() < 5
    for rows in (1, 3):
        t = torch.linspace(0.01, 1, rows, dtype=torch.float64)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x = torch.randn(rows, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        label = torch.arange(rows) + 1  # the last one is no label
        scale = alpha.float()[:, None, None, None]
        given = names["denoiser"](x / scale, (sigma / alpha).float(), label)
        assert_close(given / given.std(), denoiser(x, t, label) / given.std())
    with zipfile.ZipFile(tmp_path / "out" / "model.pt2") as archive:
        assert not any(
            str(Path.cwd()).encode() in archive.read(name) for name in archive.namelist()
        )


@pytest.mark.parametrize("form", ["diffusers", "safetensors"])
def test_the_code_on_a_card_runs(form: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.ckpt", *SMALL)
    worked(here(tmp_path, "export", form, str(path), "out"))
    with contextlib.chdir(tmp_path / "out"):
        names: dict[str, Any] = {}
        exec(code(Path()), names)
    assert form == "safetensors" or names["x"].std() < 5


def test_a_card_tells_what_the_weights_are(ddpm: Path, tmp_path: Path) -> None:
    run = shutil.copytree(ddpm, tmp_path / "run", ignore=shutil.ignore_patterns("cells"))
    words = ("num_samples=8", "n=8", "steps=2", "features=random", "metrics=[fid]")
    worked(here(tmp_path, "sample", f"checkpoint={run}", *words))
    worked(here(tmp_path, "sample", f"checkpoint={run}", "ema=raw", *words))
    worked(here(tmp_path, "export", "safetensors", str(run), "out"))
    text = (tmp_path / "out" / "README.md").read_text()
    count = sum(w.numel() for w in load_run(ddpm).weights().values())
    for part in ("# ddpm on digits", "| step | 40 |", f"| parameters | {count:,} |", "decay 0.9"):
        assert part in text
    table = text.partition("## Figures")[2].partition("## Recipe")[0]
    assert "n = 8 images a row, features random" in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 4  # the heads, the rule, real images and these weights


def test_wrong_lines_are_refused(ddpm: Path, tmp_path: Path) -> None:
    def line(*words: str) -> str:
        done = here(tmp_path, "export", *words)
        assert done.status == 2
        return done.line()

    run = str(ddpm)
    assert "no export to diffuser; did you mean diffusers?" in line("diffuser", run)
    assert "no checkpoint at" in line("torch", "nowhere")
    assert "did you mean average" in line("safetensors", run, "out", "--ema", "averag")
    assert "name a folder" in line("safetensors", run, "a.safetensors")
    assert "required: CHECKPOINT" in line("torch")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    assert "is there already: give another OUT" in line("safetensors", run, "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    (tmp_path / "file").write_text("")
    assert "cannot write" in line("safetensors", run, "file/out")
    assert not list(tmp_path.glob(".*.partial"))


def test_nobody_imports_diffusers_to_export(ddpm: Path, tmp_path: Path) -> None:
    assert diffusers.__version__
    names = "{'torch', 'diffusers', 'hydra', 'pydantic'}"
    code = "import sys; from diffgen.cli.main import main; print(main(sys.argv[1:])); "
    code += f"print(sorted({names} & sys.modules.keys()))"
    words = [sys.executable, "-c", code, "export", "difusers", str(ddpm)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines() == ["2", "[]"]
