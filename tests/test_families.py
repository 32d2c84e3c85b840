"""Released files of other programs: their weights become ours, and nothing in them runs."""

import pickle
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from originals import CASES, CLASSES, MP, SIZE, SONG, expected, inputs, waved
from running import here, worked
from torch import Tensor, nn

from diffgen.config.recipe import ClassifierRecipe, DenoiserRecipe, recipe_of
from diffgen.errors import UsageError
from diffgen.interop.adm import adm_names
from diffgen.interop.adm_classifier import read_classifier
from diffgen.interop.convert import convert
from diffgen.interop.files import to_theirs
from diffgen.interop.score_sde import score_sde_names
from diffgen.network.classifier_unet import ClassifierUNet
from diffgen.network.song_unet import SongUNet
from diffgen.runs.checkpoint import load
from diffgen.training.ema import EmaSettings

State = dict[str, Tensor]


class Persistent(dict):
    """An object as NVlabs' programs pickle it: the name of a class, its source, what it holds."""

    def __reduce__(self) -> Any:
        meta = {"type": "class", "version": 6, "module_src": "raise SystemExit"}
        meta |= {"class_name": self["class_name"], "state": self["state"]}
        return _reconstruct_persistent_obj, (meta,)


def _reconstruct_persistent_obj(meta: Any) -> None:
    raise AssertionError("nobody but NVlabs' programs makes an object of it")


class EasyDict(dict):
    pass


@pytest.fixture
def nvlabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names under which their programs pickle."""
    for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, value in {"dnnlib.util": EasyDict}.items():
        monkeypatch.setattr(sys.modules[name], "EasyDict", value, raising=False)
    persistence = sys.modules["torch_utils.persistence"]
    monkeypatch.setattr(
        persistence, "_reconstruct_persistent_obj", _reconstruct_persistent_obj, raising=False
    )
    monkeypatch.setattr(_reconstruct_persistent_obj, "__module__", "torch_utils.persistence")
    monkeypatch.setattr(EasyDict, "__module__", "dnnlib.util")


def module(state: State, buffers: tuple[str, ...], name: str, **held: Any) -> Persistent:
    """A tree of modules that holds `state`, parameters but for the names that end in `buffers`."""
    inside: dict[str, State] = {}
    own: dict[str, Any] = {"_parameters": {}, "_buffers": {}}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        if rest:
            inside.setdefault(first, {})[rest] = value
        elif key.endswith(buffers):
            own["_buffers"][key] = value
        else:
            own["_parameters"][key] = nn.Parameter(value)
    modules = {key: module(part, buffers, "Linear") for key, part in inside.items()}
    return Persistent(class_name=name, state={**own, "_modules": modules, **held})


def named(module: Persistent, part: str, name: str, settings: dict[str, Any]) -> None:
    """Say of which class a part of a module is, and how it was made."""
    found = module["state"]["_modules"][part]
    found["class_name"] = name
    found["state"] |= {"_init_args": (), "_init_kwargs": EasyDict(settings)}


def written(path: Path, name: str) -> Path:
    """A file as the program of case `name` writes it, of that case's weights."""
    state, _ = expected(name)
    about = {"img_resolution": SIZE, "img_channels": 3, "label_dim": CLASSES, "sigma_data": 0.5}
    buffers = ("freqs", "phases", "resample_filter")
    network = None
    if name == "ddpmpp":
        held = {f"model.{key}": value for key, value in state.items()}
        network = module(held, buffers, "EDMPrecond", **about)
        settings = {**SONG, "label_dim": CLASSES, "channel_mult_noise": 1}
        named(network, "model", "SongUNet", settings)
    if name == "edm2":
        return snapshot(path, state)
    if network:
        data = {"ema": network, "dataset_kwargs": EasyDict(path="cifar10.zip")}
        path.write_bytes(pickle.dumps(data))
    elif name == "score_sde":
        model = {f"module.{key}": value + 1 for key, value in state.items()}
        model |= {key: value - 1 for key, value in model.items() if key.endswith(".0.W")}
        model["module.sigmas"] = torch.logspace(1.69897000434, -2, 10)
        shadow = [value for key, value in state.items() if key != "all_modules.0.W"]
        ema = {"decay": 0.999, "num_updates": 7, "shadow_params": shadow}
        torch.save({"optimizer": {}, "model": model, "ema": ema, "step": 7}, path)
    else:
        torch.save(state | places(name), path)
    return path


def snapshot(path: Path, state: State) -> Path:
    """A file as EDM2's training writes it."""
    about = {"img_resolution": SIZE, "img_channels": 3, "label_dim": CLASSES, "sigma_data": 0.5}
    network = module(state, ("freqs", "phases", "resample_filter"), "Precond", **about)
    named(network, "unet", "UNet", MP)
    encoder = Persistent(class_name="StandardRGBEncoder", state={})
    data = EasyDict(encoder=encoder, ema=network, dataset_kwargs=EasyDict(path="img64.zip"))
    path.write_bytes(pickle.dumps(data))
    return path


def places(name: str) -> State:
    from diffgen.network.tokens import positions

    return {"pos_embed": positions(4, 24)[None]} if name == "dit" else {}


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpmpp": ("edm", {}),
    "edm2": ("edm2", {}),
    "score_sde": ("score_sde", {"data": {"image_size": SIZE}}),
    "adm": ("adm", {"image_size": SIZE}),
    "adm_new_order": ("adm", {"image_size": SIZE, "use_new_attention_order": True}),
    "adm_512": ("adm", {"image_size": SIZE}),
    "improved": ("improved-diffusion", {"image_size": SIZE, "rescale_timesteps": False}),
    "dit": ("dit", {"num_heads": 3}),
}


@pytest.mark.usefixtures("nvlabs")
@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_a_released_file_becomes_the_network_it_was(name: str, tmp_path: Path) -> None:
    kind, settings = KINDS[name]
    path = written(tmp_path / "released", name)
    found = convert(kind, path, None, settings)
    recipe = recipe_of(found.recipe)
    assert isinstance(recipe, DenoiserRecipe)
    network = recipe.denoiser(found.shape, len(found.classes)).eval().network
    network.load_state_dict(found.ema or found.raw)
    x, c_noise, label, augment = inputs(CASES[name])
    more = [label if found.classes else None, *([augment] if name == "ddpmpp" else [])]
    c_noise = c_noise.log() if name == "score_sde" else c_noise
    torch.testing.assert_close(
        network(x, c_noise, *more), expected(name)[1]["out"], rtol=1e-5, atol=3e-5
    )
    assert found.shape == (3, SIZE, SIZE)
    assert found.assumed
    assert found.step == (7 if name == "score_sde" else 0)


@pytest.mark.usefixtures("nvlabs")
def test_an_imported_pickle_is_sampled_and_told_of(tmp_path: Path) -> None:
    """By the commands: import, sample, table, and what was assumed, told twice."""
    path = written(tmp_path / "network.pkl", "ddpmpp")
    said = worked(here(tmp_path, "import", "edm", str(path), "there")).out
    assert "schedule=edm (sigma_max=80.0, sigma_min=0.002), prediction=edm" in said
    assert "average (ema=raw takes it)" in said
    told = worked(here(tmp_path, "explain", "checkpoint=there")).out
    for words in ("from network.pkl, a file of edm", "ema=raw takes it", "song_unet, width 16"):
        assert words in " ".join(told.split())
    few = ("num_samples=2", "batch_size=2", "metrics=[]", "steps=2")
    worked(here(tmp_path, "sample", "-m", "checkpoint=there", "sampler=ddim,ddpm", *few))
    drawn = [np.load(file)["arr_0"] for file in (tmp_path / "there").rglob("samples.npz")]
    assert [images.shape for images in drawn] == [(2, SIZE, SIZE, 3)] * 2
    assert (drawn[0] != drawn[1]).any()


@pytest.mark.usefixtures("nvlabs")
def test_snapshots_of_edm2_give_any_width(tmp_path: Path) -> None:
    """Averages of both widths at six times, of weights that move: against the average itself."""
    folder, state, times, last = tmp_path / "raw", expected("edm2")[0], 6, 384
    folder.mkdir()
    key = "unet.enc.8x8_conv.weight"
    walk = torch.randn(last + 1, *state[key].shape, generator=torch.Generator().manual_seed(0))
    walk = walk.cumsum(0) / 20
    tracked = {width: averages(walk, width) for width in (0.05, 0.1, 0.15)}
    for at in range(last // times, last + 1, last // times):
        for width in (0.05, 0.1):
            held = state | {key: tracked[width][at]}
            snapshot(folder / f"network-snapshot-{at:07d}-{width:.3f}.pkl", held)
    snapshot(folder / f"network-snapshot-{last - 5:07d}-0.050.pkl", state)  # of one width alone
    said = worked(here(tmp_path, "import", "edm2", "raw", "there")).out
    assert "averages of width 0.05 and 0.1 at 6 times" in said
    assert "1 without all widths are left out" in said
    files = {path.name for path in (tmp_path / "there" / "checkpoints").iterdir()}
    assert files == {"last.ckpt", *(f"ema_{k * 64:07d}.ckpt" for k in range(1, times))}
    found = load(tmp_path / "there" / "checkpoints" / "last.ckpt")
    assert (found.step, found.average(None)) == (last, "width_0.05")
    name = "stem.weight"
    for width, share in ((0.05, 1e-5), (0.1, 1e-5), (0.15, 0.1)):
        truth, near = tracked[width][last], tracked[0.1][last]
        missed = (found.weights(width)[name] - truth).norm()
        assert missed <= share * ((near - truth).norm() if width == 0.15 else truth.norm())
    few = ("num_samples=2", "batch_size=2", "metrics=[]", "steps=2")
    worked(here(tmp_path, "sample", "-m", "checkpoint=there", "ema=0.1,0.15", *few))
    drawn = [np.load(file)["arr_0"] for file in (tmp_path / "there").rglob("samples.npz")]
    assert len(drawn) == 2
    assert (drawn[0] != drawn[1]).any()


def averages(walk: Tensor, width: float) -> dict[int, Tensor]:
    """The average of a relative width after each step, by EDM2's recursion."""
    beta, average, found = EmaSettings(width=width).beta(), walk[1], {}
    for n in range(1, len(walk)):
        average = beta(n) * average + (1 - beta(n)) * walk[n]
        found[n] = average
    return found


def test_networks_that_guided_diffusion_did_not_release_have_its_programs_defaults(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "released", "improved")
    found = convert("adm", path, SIZE, {})
    assert (found.recipe["network"]["head_width"], found.recipe["network"]["heads"]) == (None, 4)
    assert found.recipe["schedule"] == {"name": "linear", "levels": 1000}
    assert any("--num_head_channels -1" in line for line in found.assumed)


@pytest.mark.usefixtures("nvlabs")
def test_pickles_of_the_other_program_of_nvlabs_name_its_kind(tmp_path: Path) -> None:
    for name, kind, other in (("ddpmpp", "edm2", "edm"), ("edm2", "edm", "edm2")):
        path = written(tmp_path / name, name)
        line = here(tmp_path, "import", kind, str(path)).line()
        assert line.endswith(f"take `diffgen import {other}`")


@pytest.mark.usefixtures("nvlabs")
def test_folders_of_snapshots_that_are_no_series_are_refused(tmp_path: Path) -> None:
    def line(*words: str) -> str:
        return here(tmp_path, "import", "edm2", "raw", *words).line()

    folder, state = tmp_path / "raw", expected("edm2")[0]
    folder.mkdir()
    assert "no snapshots in raw, such as network-snapshot-" in line("there")
    first = snapshot(folder / "network-snapshot-0000064-0.050.pkl", state)
    assert "name a run's folder" in line("there.ckpt")
    other = snapshot(folder / "other-0000064-0.100.pkl", state)
    assert "snapshots of network-snapshot and other: give a folder to each" in line("there")
    other.unlink()
    snapshot(folder / "network-snapshot-0000128-0.050.pkl", state)
    first.write_bytes(first.read_bytes()[:-100])
    assert "network-snapshot-0000064-0.050.pkl is truncated" in line("there")
    assert not list((tmp_path / "there").rglob("*.ckpt"))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"use_gelu": True}, "use_gelu=True"),
    ({"channel_mult_emb": 8}, "channel_mult_emb=8, only 4"),
    ({"channel_mult_noise": 2}, "channel_mult_noise=2, only 1"),
    ({"embedding_type": "fourier", "channel_mult_noise": 1}, "channel_mult_noise=1, only 2"),
]


@pytest.mark.usefixtures("nvlabs")
@pytest.mark.parametrize(("settings", "words"), REFUSED)
def test_settings_that_our_network_cannot_honour_are_refused(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    state = {f"model.{key}": value for key, value in expected("ddpmpp")[0].items()}
    about = {"img_resolution": SIZE, "img_channels": 3, "label_dim": CLASSES}
    network = module(state, ("freqs",), "EDMPrecond", **about)
    named(network, "model", "SongUNet", {**SONG, **settings})
    (tmp_path / "network.pkl").write_bytes(pickle.dumps({"ema": network}))
    with pytest.raises(UsageError, match=words):
        convert("edm", tmp_path / "network.pkl", None, {})


def test_an_average_of_another_order_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "checkpoint.pth", "score_sde")
    data = torch.load(path, weights_only=True)
    data["ema"]["shadow_params"].reverse()
    torch.save(data, path)
    with pytest.raises(UsageError, match="not a list of its parameters in their order"):
        convert("score_sde", path, SIZE, {})


# score_sde's networks for CIFAR-10, but for their widths and depths.
FIR = {"encoder": "residual", "taps": (1, 3, 3, 1)}
SDES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vp_ddpmpp": ({}, {"training": {"sde": "vpsde", "continuous": True}}),
    "vp_ncsnpp": (FIR, {"training": {"sde": "vpsde"}, "model": {"fir": True, "beta_max": 15}}),
    "subvp_ddpmpp": (
        {},
        {"training": {"sde": "subvpsde"}, "data": {"centered": True, "dataset": "CIFAR10"}},
    ),
    "ve_ncsnpp": (FIR | {"embedding": "fourier"}, {}),
}


def of_score_sde(path: Path, network: SongUNet) -> Path:
    """A checkpoint of score_sde with weights of ours."""
    state = to_theirs(network.state_dict(), score_sde_names(network))
    matrix = {k for k, v in state.items() if k.endswith(".W") and v.ndim > 1}
    state = {k: v.T.contiguous() if k in matrix else v for k, v in state.items()}
    order = sorted(state, key=lambda key: (int(key.split(".")[1]), key))
    shadow = [state[key] for key in order if not (key.endswith(".W") and state[key].ndim == 1)]
    model = {f"module.{key}": state[key] for key in order}
    model["module.sigmas"] = torch.logspace(1.69897000434, -2, 10)
    ema = {"decay": 0.9999, "num_updates": 7, "shadow_params": shadow}
    torch.save({"optimizer": {}, "model": model, "ema": ema, "step": 7}, path)
    return path


def song(**settings: Any) -> SongUNet:
    blocks = {"width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (16,)}
    return waving(SongUNet(channels=3, size=32, **blocks, **settings))


def waving(network: SongUNet) -> SongUNet:
    """The network with waves for weights, but for the frequencies of its embedding."""
    waves = waved({key: list(value.shape) for key, value in network.named_parameters()})
    network.load_state_dict(waves, strict=False)
    return network.eval()


@pytest.mark.parametrize("name", SDES)
@torch.no_grad()
def test_networks_of_score_sde_for_cifar10_are_read(name: str, tmp_path: Path) -> None:
    """With eps as its SDE has it: formulas of its sde_lib.py and models/utils.py, restated."""
    settings, config = SDES[name]
    source = song(**settings)
    path = of_score_sde(tmp_path / "checkpoint_26.pth", source)
    found = convert("score_sde", path, None, config)
    recipe = recipe_of(found.recipe)
    assert isinstance(recipe, DenoiserRecipe)
    assert found.shape == (3, 32, 32)
    assert found.recipe.get("dataset") == ({"name": "cifar10"} if name == "subvp_ddpmpp" else None)
    denoiser = recipe.denoiser(found.shape, 0).eval()
    denoiser.network.load_state_dict(found.ema)
    t = torch.tensor([0.1, 0.8], dtype=torch.float64)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    if name == "ve_ncsnpp":
        sigma = 0.01 * 5000**t
        assert denoiser.schedule.sigma(t) == pytest.approx(2 * sigma)
        expected = -source(x, sigma.log().float())
    else:
        rise = config.get("model", {}).get("beta_max", 20) - 0.1
        alpha = (-(t**2) * rise / 4 - t / 20).exp()
        assert denoiser.schedule.alpha(t) == pytest.approx(alpha)
        power = 1 if name.startswith("sub") else 0.5
        assert denoiser.schedule.sigma(t) == pytest.approx((1 - alpha**2) ** power)
        expected = source(x, (999 * t).float())
    torch.testing.assert_close(denoiser.eps(x, t), expected, rtol=1e-4, atol=1e-4)


VPSDE = {"training": {"sde": "vpsde"}}


@pytest.mark.parametrize(
    ("settings", "config", "words"),
    [
        ({}, {"training": {"sde": "vesde"}}, "training.sde=vesde with a sinusoid"),
        ({}, {}, "vpsde or subvpsde, look alike; say which in a file"),
        ({}, {**VPSDE, "data": {"centered": False}}, "data.centered=False with vpsde"),
        (FIR | {"embedding": "fourier"}, {"data": {"centered": True}}, "centered=True with vesde"),
        ({}, {**VPSDE, "model": {"scale_by_sigma": True}}, "scale_by_sigma=True with vpsde"),
        ({"encoder": "residual"}, {**VPSDE, "model": {"fir": False}}, "model.fir=False"),
        ({"encoder": "strided"}, VPSDE, "model.fir=False .* strided convolutions"),
    ],
)
def test_networks_of_score_sde_that_are_not_read(
    settings: dict[str, Any], config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    strided = settings.get("encoder") == "strided"
    network = song(**({"encoder": "residual"} if strided else settings))
    path = of_score_sde(tmp_path / "checkpoint_26.pth", network)
    if strided:
        data = torch.load(path, weights_only=True)
        data["model"] = {k.replace("Conv2d_0", "Conv_0"): v for k, v in data["model"].items()}
        torch.save(data, path)
    with pytest.raises(UsageError, match=words):
        convert("score_sde", path, None, config)


def test_what_two_sdes_have_alike_is_asked_for_by_words_that_work(tmp_path: Path) -> None:
    """And all that a released configuration says is read."""
    path = of_score_sde(tmp_path / "checkpoint_26.pth", song())
    line = here(tmp_path, "import", "score_sde", str(path), "there").line()
    (echoed,) = re.findall(r'echo "(.*)" > sde.yml', line)
    (tmp_path / "sde.yml").write_text(echoed)
    more = line.rpartition("add ")[2].split()
    said = worked(here(tmp_path, "import", "score_sde", str(path), "there", *more)).out
    assert "schedule=vp (beta_min=0.1, beta_max=20.0, sub=False), prediction=eps" in said


@pytest.mark.parametrize("name", ["adm_classifier", "adm_classifier_average"])
@torch.no_grad()
def test_a_classifier_of_adm_names_the_classes_that_it_did(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "classifier.pt", name)
    found = convert("adm", path, SIZE, {})
    recipe = recipe_of(found.recipe)
    assert isinstance(recipe, ClassifierRecipe)
    assert not found.ema
    classifier = recipe.classifier(found.shape, len(found.classes)).eval()
    classifier.network.load_state_dict(found.raw)
    x, c_noise, *_ = inputs(CASES[name])
    out = expected(name)[1]["out"]
    torch.testing.assert_close(classifier.network(x, c_noise), out, rtol=1e-5, atol=1e-5)
    # A variance-preserving x_t, and levels counted from 0: as its program asks it.
    asked = classifier(x, (c_noise.double() + 1) / 1000)
    torch.testing.assert_close(asked, out, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="take `diffgen import adm`"):
        convert("improved-diffusion", path, SIZE, {})


def test_a_classifier_of_adm_guides_its_model(tmp_path: Path) -> None:
    """By the commands: import of both, a sweep over the weight, and its table."""
    flags = tmp_path / "flags.yml"
    flags.write_text("use_new_attention_order: true")
    for name, more in (("adm_new_order", ["--config", str(flags)]), ("adm_classifier", [])):
        path = written(tmp_path / f"{name}.pt", name)
        said = worked(here(tmp_path, "import", "adm", str(path), name, "--size", "8", *more)).out
    assert "a classifier of noisy images in [-1, 1], for guidance=classifier" in said
    assert "--noise_schedule linear --diffusion_steps 1000 --rescale_timesteps False" in said
    told = worked(here(tmp_path, "explain", "checkpoint=adm_classifier")).out
    assert "a file of adm" in told
    assert "for guidance=classifier" in " ".join(told.split())
    few = ("num_samples=2", "batch_size=2", "metrics=[]", "steps=2", "labels=[1]", "clip=range")
    words = ("guidance=classifier", "guidance.checkpoint=adm_classifier", "guidance.weight=0,50")
    done = worked(here(tmp_path, "sample", "-m", "checkpoint=adm_new_order", *words, *few))
    drawn = [np.load(file)["arr_0"] for file in (tmp_path / "adm_new_order").rglob("samples.npz")]
    assert [images.shape for images in drawn] == [(2, SIZE, SIZE, 3)] * 2
    assert (drawn[0] != drawn[1]).any()
    assert "50" in done.out


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "classifier.pt", "adm_classifier")
    state = torch.load(path, weights_only=True)
    torch.save(state | {"out.0.weight": state["out.0.weight"].char()}, path)
    line = here(tmp_path, "import", "adm", str(path), "out").line()
    assert line.startswith("out.0.weight is of torch.int8, as quantised weights are: import the ")


def test_depth_and_size_of_a_classifier_are_read_from_its_weights(tmp_path: Path) -> None:
    """Those released: 64 pixels four blocks deep, 128 and 256 two, of attention at 32, 16, 8."""
    for size, multipliers, blocks in ((64, (1, 2, 3, 4), 4), (128, (1, 1, 2, 3, 4), 2)):
        with torch.device("meta"):
            network = ClassifierUNet(
                channels=3,
                size=size,
                num_classes=2,
                noise_conditional=True,
                width=128,
                multipliers=multipliers,
                blocks=blocks,
            )
        state = network.state_dict()
        theirs = {name: state[key] for key, (name,) in adm_names(network).items()}
        found = read_classifier(theirs, tmp_path, None, {}).recipe["network"]
        assert found["blocks"] == blocks
        assert found["multipliers"] == list(multipliers)
        assert found["attention"] == [32, 16, 8]
        with pytest.raises(UsageError, match=f"images of {size} pixels, not 32"):
            read_classifier(theirs, tmp_path, 32, {})


def test_classifiers_that_cannot_be_told_are_refused(tmp_path: Path) -> None:
    state = expected("adm_classifier")[0]
    no_places = {key: value for key, value in state.items() if not key.startswith("out.2")}
    with pytest.raises(UsageError, match="pools by neither attention nor"):
        read_classifier(no_places, tmp_path, SIZE, {})
    with pytest.raises(UsageError, match="fit 1 as the blocks of a level"):
        read_classifier(state, tmp_path, SIZE, {"classifier_depth": 2})
    settings = {"rescale_timesteps": True, "diffusion_steps": 4000}
    with pytest.raises(UsageError, match="rescale_timesteps"):
        read_classifier(state, tmp_path, SIZE, settings)
