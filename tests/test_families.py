"""Released files of other programs: their weights become ours, and nothing in them runs."""

import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from originals import CASES, CLASSES, MP, SIZE, SONG, expected, inputs
from running import here, worked
from torch import Tensor, nn

from diffgen.config.recipe import DenoiserRecipe, recipe_of
from diffgen.errors import UsageError
from diffgen.interop.families import read_family

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
        network = module(state, buffers, "Precond", **about)
        named(network, "unet", "UNet", MP)
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


def places(name: str) -> State:
    from diffgen.network.tokens import positions

    return {"pos_embed": positions(4, 24)[None]} if name == "dit" else {}


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpmpp": ("edm", {}),
    "edm2": ("edm2", {}),
    "score_sde": ("score_sde", {"data": {"image_size": SIZE}}),
    "adm": ("adm", {"image_size": SIZE}),
    "adm_new_order": ("adm", {"image_size": SIZE, "use_new_attention_order": True}),
    "improved": ("improved-diffusion", {"image_size": SIZE, "rescale_timesteps": False}),
    "dit": ("dit", {"num_heads": 3}),
}


@pytest.mark.usefixtures("nvlabs")
@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_a_released_file_becomes_the_network_it_was(name: str, tmp_path: Path) -> None:
    kind, settings = KINDS[name]
    path = written(tmp_path / "released", name)
    found, raw, average = read_family(kind, path, None, settings)
    recipe = recipe_of(found.recipe)
    assert isinstance(recipe, DenoiserRecipe)
    network = recipe.denoiser(found.shape, found.classes).eval().network
    network.load_state_dict(average or raw)
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
        read_family("edm", tmp_path / "network.pkl", None, {})


def test_an_average_of_another_order_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "checkpoint.pth", "score_sde")
    data = torch.load(path, weights_only=True)
    data["ema"]["shadow_params"].reverse()
    torch.save(data, path)
    with pytest.raises(UsageError, match="not a list of its parameters in their order"):
        read_family("score_sde", path, SIZE, {})


def test_a_classifier_of_adm_is_no_denoiser(tmp_path: Path) -> None:
    state = expected("adm")[0]
    kept = {key: value for key, value in state.items() if not key.startswith("output_blocks")}
    torch.save(kept, tmp_path / "classifier.pt")
    with pytest.raises(UsageError, match="classifier"):
        read_family("adm", tmp_path / "classifier.pt", SIZE, {})
