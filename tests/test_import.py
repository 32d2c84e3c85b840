"""Released checkpoints: hand-made files in each layout, read as data and nothing else."""

import argparse
import json
import re
from collections import OrderedDict
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import EMAModel
from test_interop import CIFAR10, shaken
from torch import Tensor, nn

from diffgen.config.recipe import recipe_of
from diffgen.errors import UsageError
from diffgen.interop.config_files import parse_config, read_json
from diffgen.interop.convert import convert
from diffgen.interop.parameter_names import CONDITIONAL, UNCONDITIONAL, ddim_names, ncsn_names
from diffgen.interop.settings import read_settings
from diffgen.network.ncsn_refinenet import NCSNRefineNet
from diffgen.network.refinenet import RefineNet
from diffgen.network.unet import UNet

LADDER = torch.tensor([20.0, 2.0, 0.2, 0.02])


def theirs(network: nn.Module, names: dict[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """The network's weights as the authors' code names and shapes them."""
    state: dict[str, Tensor] = {}
    for key, value in network.state_dict().items():
        flat = value.flatten(1) if key.endswith(".table") and len(names[key]) == 1 else value
        flat = value.flatten() if key.endswith(".table") and len(names[key]) == 3 else flat
        parts = zip(names[key], flat.chunk(len(names[key])), strict=True)
        convs = (".q.", ".k.", ".v.", ".proj_out.")
        for name, part in parts:
            one = any(conv in name for conv in convs) and part.ndim == 2
            state[name] = (part[..., None, None] if one else part).clone()
    return state


def save(path: Path, state: dict[str, Tensor], *rest: object) -> Path:
    """A training state as the NCSN and DDIM code writes it."""
    model = OrderedDict((f"module.{key}", value) for key, value in state.items())
    adam = {"state": {0: {"step": 70, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}
    torch.save([model, adam, *rest], path)
    return path


def write_config(path: Path, **sections: dict) -> None:
    """config.yml as their code dumps it: a pickled tree of argparse namespaces."""
    spaces = {name: argparse.Namespace(**section) for name, section in sections.items()}
    path.write_text(yaml.dump(argparse.Namespace(**spaces)))
    assert "!!python/object:argparse.Namespace" in path.read_text()


def images(channels: int, size: int) -> Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_ncsnv2(tmp_path: Path) -> None:
    make = partial(RefineNet, channels=3, size=16, width=4, depth="deeper")
    network, average = shaken(make()), shaken(make())
    names = ncsn_names(network, UNCONDITIONAL)
    state = theirs(network, names) | {"sigmas": LADDER}
    path = save(tmp_path / "checkpoint_5.pth", state, 3, 5, theirs(average, names))
    data = {"dataset": "CELEBA", "image_size": 16, "channels": 3}
    write_config(tmp_path / "config.yml", data=data, model={"ema_rate": 0.999})
    found = convert("ncsnv2", path)
    assert (found.step, found.shape) == (5, (3, 16, 16))
    ladder = {"name": "geometric", "sigma_max": 20.0, "sigma_min": 0.02, "levels": 4}
    assert found.recipe["schedule"] == ladder
    assert found.recipe["dataset"] == {"name": "celeba", "size": 16, "crop": "ncsn"}
    assert found.recipe["ema"]["average"]["decay"] == 0.999
    denoiser = recipe_of(found.recipe).denoiser(found.shape, 0)
    for weights, source in ((found.raw, network), (found.ema, average)):
        denoiser.network.load_state_dict(weights)
        x = images(3, 16)
        assert torch.equal(denoiser.network(x, None), source(x, None))


@torch.no_grad()
def test_ncsn_label_0_is_the_largest_sigma(tmp_path: Path) -> None:
    network = shaken(NCSNRefineNet(channels=1, size=28, width=4, levels=4))
    state = theirs(network, ncsn_names(network, CONDITIONAL))
    state["normalizer.embed.weight"][0] = 0.0
    found = convert("ncsn", save(tmp_path / "checkpoint.pth", state), size=28)
    assert (found.step, found.ema) == (70, {})
    assert found.recipe["schedule"] == {
        "name": "geometric",
        "sigma_max": 1.0,
        "sigma_min": 0.01,
        "levels": 4,
    }
    denoiser = recipe_of(found.recipe).denoiser(found.shape, 0)
    denoiser.network.load_state_dict(found.raw)
    x, t = images(1, 28), torch.tensor([1.0, 0.25], dtype=torch.float64)
    # Without gains and offsets of the last norm, the output is the last convolution's bias.
    greatest, least = denoiser.raw(x, t)
    assert greatest.std() < 1e-6
    torch.testing.assert_close(least, network(x, torch.zeros(2))[1])
    # This network's output is the score itself, whatever the level.
    torch.testing.assert_close(denoiser.score(x, t)[1], least, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("converted", [False, True], ids=["list", "bare"])
def test_ddim(tmp_path: Path, converted: bool) -> None:
    shape = {"width": 32, "multipliers": (1, 2, 3), "blocks": 1, "exact_groups": True}
    network = shaken(UNet(channels=3, size=32, **shape))
    state, path = theirs(network, ddim_names(network.state_dict())), tmp_path / "ckpt.pth"
    assert state["mid.attn_1.q.weight"].shape == (96, 96, 1, 1)
    norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {32}  # as their Normalize has, at any width
    if converted:
        torch.save(state, path)
    else:
        save(path, state, 1, 9, state)
    found = convert("ddim", path)
    assert (found.shape, found.step) == ((3, 32, 32), 0 if converted else 9)
    assert found.recipe["network"]["attention"] == [16]
    denoiser = recipe_of(found.recipe).denoiser(found.shape, 0)
    denoiser.network.load_state_dict(found.raw if converted else found.ema)
    x, told = images(3, 32), torch.tensor([0.0, 999.0])
    assert torch.equal(denoiser.network(x, told), network(x, told))


@torch.no_grad()
@pytest.mark.parametrize("safe", [False, True], ids=["bin", "safetensors"])
def test_ddpm_of_diffusers(tmp_path: Path, safe: bool) -> None:
    options = {"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 4}
    other = UNet2DModel(**CIFAR10 | options)
    shaken(other)
    other.save_pretrained(tmp_path / "unet", safe_serialization=safe)
    DDPMScheduler(beta_end=0.03, num_train_timesteps=500).save_pretrained(tmp_path / "scheduler")
    found = convert("ddpm-diffusers", tmp_path)
    assert found.recipe["schedule"]["levels"] == 500
    assert found.recipe["schedule"]["beta_max"] == 0.03
    denoiser = recipe_of(found.recipe).denoiser(found.shape, 0)
    denoiser.network.load_state_dict(found.raw)
    x, level = images(3, 32), torch.tensor([3, 499])
    expected = other(x, level).sample
    torch.testing.assert_close(denoiser.network(x, level.float()), expected)
    inside = convert("ddpm-diffusers", next((tmp_path / "unet").glob("*model.*")))
    assert inside.recipe == found.recipe


# What diffusers' training script of unconditional models makes, narrower.
SCRIPT = {
    "sample_size": 16,
    "layers_per_block": 1,
    "block_out_channels": (32, 32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "num_class_embeds": 5,
}
SCHEDULERS = {
    "linear": {},
    "zero_snr": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 1e-3, "clip_sample": False},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100},
}


@torch.no_grad()
@pytest.mark.parametrize("settings", SCHEDULERS.values(), ids=SCHEDULERS)
def test_what_the_training_script_of_diffusers_makes(tmp_path: Path, settings: dict) -> None:
    other, scheduler = shaken(UNet2DModel(**SCRIPT)), DDPMScheduler(**settings)
    other.save_pretrained(tmp_path / "unet")
    scheduler.save_pretrained(tmp_path / "scheduler")
    found = convert("ddpm-diffusers", tmp_path)
    assert found.classes == tuple("01234")
    assert found.recipe["model"]["clip"] is settings.get("clip_sample", True)
    denoiser = recipe_of(found.recipe).denoiser(found.shape, len(found.classes))
    denoiser.network.load_state_dict(found.raw)
    x, level, label = images(3, 16), torch.tensor([3, 98]), torch.tensor([4, 0])
    expected = other(x, level, class_labels=label).sample
    torch.testing.assert_close(
        denoiser.network(x, level.float(), label), expected, rtol=1e-5, atol=1e-5
    )
    levels = scheduler.config["num_train_timesteps"]
    t = torch.arange(1, levels + 1, dtype=torch.float64) / levels
    signal = denoiser.schedule.alpha(t) ** 2
    torch.testing.assert_close(signal, scheduler.alphas_cumprod.double(), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_the_average_of_the_training_script_of_diffusers(tmp_path: Path) -> None:
    """checkpoint-500/unet_ema, whose configuration tells of the average, too."""
    other = shaken(UNet2DModel(**SCRIPT))
    average = EMAModel(other.parameters(), model_cls=UNet2DModel, model_config=other.config)
    average.save_pretrained(tmp_path / "checkpoint-500" / "unet_ema")
    assert "decay" in json.loads((tmp_path / "checkpoint-500/unet_ema/config.json").read_text())
    folder = tmp_path / "checkpoint-500" / "unet_ema"
    found = convert("ddpm-diffusers", folder)
    denoiser = recipe_of(found.recipe).denoiser(found.shape, len(found.classes))
    denoiser.network.load_state_dict(found.raw)
    x, level, label = images(3, 16), torch.tensor([3, 98]), torch.tensor([4, 0])
    expected = other(x, level, class_labels=label).sample
    torch.testing.assert_close(
        denoiser.network(x, level.float(), label), expected, rtol=1e-5, atol=1e-5
    )


def test_all_settings_that_are_not_honoured_are_named_at_once(tmp_path: Path) -> None:
    changes = {"freq_shift": 0, "upsample_type": "resnet", "act_fn": "gelu"}
    UNet2DModel(**CIFAR10 | NARROW).save_pretrained(tmp_path / "unet")
    config = json.loads((tmp_path / "unet" / "config.json").read_text())
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config | changes))
    told = {"trained_betas": [0.01] * 1000, "beta_schedule": "laplace", "clip_sample_range": 2.0}
    DDPMScheduler(**told).save_pretrained(tmp_path / "scheduler")
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "KarrasVe"}))
    with pytest.raises(UsageError) as caught:
        convert("ddpm-diffusers", tmp_path)
    line = str(caught.value)
    for part in ("upsample_type=resnet (only conv)", "act_fn=gelu", "trained_betas=[0.01"):
        assert part in line
    for part in ("beta_schedule=laplace (only linear", "clip_sample_range=2.0", "KarrasVe"):
        assert part in line
    assert len(line) < 600
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    wrong = {
        "flip_sin_to_cos=True with freq_shift=1": {"flip_sin_to_cos": True},
        "sample_size=[16, 32] (only squares)": {"sample_size": [16, 32]},
        "down_block_types": {"down_block_types": ["ResnetDownsampleBlock2D"] * 4},
        "not those on the way down": {"up_block_types": ["UpBlock2D"] * 4},
        "norm_num_groups=5": {"norm_num_groups": 5},
        "attn_norm_num_groups=2": {"attn_norm_num_groups": 2},
        "unet.wings=2 (not known here)": {"wings": 2},
        "give --size 32": {"sample_size": None},
        "layers_per_block=x (int)": {"layers_per_block": "x"},
        "layers_per_block=1000000000 (100,000 are the most)": {"layers_per_block": 10**9},
        "num_class_embeds=1000000000 (100,000": {"num_class_embeds": 10**9},
    }
    for answer, change in wrong.items():
        (tmp_path / "unet" / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UsageError, match=re.escape(answer)):
            convert("ddpm-diffusers", tmp_path)
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config | {"sample_size": [32, 32]}))
    assert convert("ddpm-diffusers", tmp_path).shape == (3, 32, 32)


NARROW = {"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 4}

AUTHORS = {
    "data.rescaled=True (only False)": {"data": {"rescaled": True}},
    "data.logit_transform=True": {"data": {"logit_transform": True}},
    "model.nonlinearity=relu (only elu)": {"model": {"nonlinearity": "relu"}},
    "model.normalization=GroupNorm": {"model": {"normalization": "GroupNorm"}},
    "model.spec_norm=True": {"model": {"spec_norm": True}},
    "model.wings=2 (not known here)": {"model": {"wings": 2}},
    "model.ngf=128 (in the weights 4)": {"model": {"ngf": 128}},
    "data.channels=1 (in the weights 3)": {"data": {"channels": 1}},
    "model.num_classes=232 (in the weights 4)": {"model": {"num_classes": 232}},
    "model.sigma_begin=50 (in the weights 20.0)": {"model": {"sigma_begin": 50}},
    "data=5 (a mapping)": {"data": 5},
    "--size 16 contradicts the configuration's 32": {"data": {"image_size": 32}},
}


@pytest.mark.parametrize(("answer", "config"), AUTHORS.items(), ids=AUTHORS)
def test_settings_of_the_authors_that_are_not_honoured(tmp_path: Path, answer, config) -> None:
    network = RefineNet(channels=3, size=16, width=4)
    state = theirs(network, ncsn_names(network, UNCONDITIONAL)) | {"sigmas": LADDER}
    path = save(tmp_path / "checkpoint_5.pth", state)
    (tmp_path / "config.yml").write_text(yaml.dump(config))
    with pytest.raises(UsageError, match=re.escape(answer)):
        convert("ncsnv2", path, 16)


def test_the_authors_own_configurations_are_honoured(tmp_path: Path) -> None:
    """Those of NCSNv2's FFHQ and of DDIM's CIFAR-10, but for their widths."""
    network = RefineNet(channels=3, size=16, width=4)
    state = theirs(network, ncsn_names(network, UNCONDITIONAL)) | {"sigmas": LADDER}
    path = save(tmp_path / "checkpoint_5.pth", state)
    data = {"dataset": "FFHQ", "image_size": 16, "channels": 3, "logit_transform": False}
    data |= {"uniform_dequantization": True, "gaussian_dequantization": False, "rescaled": False}
    model = {"sigma_begin": 20, "num_classes": 4, "ema": True, "ema_rate": 0.999, "ngf": 4}
    model |= {"spec_norm": False, "sigma_dist": "geometric", "sigma_end": 0.02}
    model |= {"normalization": "InstanceNorm++", "nonlinearity": "elu"}
    config = {"data": {**data, "random_flip": True, "num_workers": 4}, "model": model}
    (tmp_path / "another.yml").write_text(yaml.dump({**config, "training": {"batch_size": 32}}))
    found = convert("ncsnv2", path, None, read_settings("ncsnv2", path, tmp_path / "another.yml"))
    assert found.recipe["dataset"] == {"name": "ffhq", "size": 16}
    assert found.recipe["model"]["dequantise"] is True
    narrow = UNet(channels=3, size=16, width=32, multipliers=(1, 2), blocks=1, attention=(8,))
    state = theirs(narrow, ddim_names(narrow.state_dict()))
    path = save(tmp_path / "ckpt.pth", state)
    model = {"type": "simple", "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2]}
    model |= {"num_res_blocks": 1, "attn_resolutions": [8], "dropout": 0.1, "ema": True}
    model |= {"var_type": "fixedlarge", "ema_rate": 0.9999, "resamp_with_conv": True}
    data = {"dataset": "CIFAR10", "image_size": 16, "channels": 3, "rescaled": True}
    betas = {"beta_schedule": "quad", "beta_start": 1e-4, "beta_end": 0.04}
    betas |= {"num_diffusion_timesteps": 500}
    config = {"data": data, "model": model, "diffusion": betas}
    (tmp_path / "config.yml").write_text(yaml.dump(config))
    found = convert("ddim", path)
    schedule = {"name": "quadratic", "levels": 500, "beta_min": 1e-4, "beta_max": 0.04}
    assert found.recipe["schedule"] == schedule | {"rescale": False}
    assert found.recipe["network"]["dropout"] == 0.1
    (tmp_path / "config.yml").write_text(yaml.dump(config | {"model": model | {"ch": 64}}))
    with pytest.raises(UsageError, match=r"model\.ch=64 \(in the weights 32\)"):
        convert("ddim", path)


def test_small_configurations_that_would_grow_are_refused(tmp_path: Path) -> None:
    merged = "a0: &a0 {x: 1}\n"
    merged += "".join(f"a{k}: &a{k} {{<<: [*a{k - 1}, *a{k - 1}]}}\n" for k in range(1, 60))
    shared = "a0: &a0 [1]\n"
    shared += "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 30))
    for text in (
        merged,
        shared,
        "[" * 10**5,
        "a: " + "1:" * 10**4 + "1",
        "\0",
        "a: *b",
        "? [1]\n",
    ):
        with pytest.raises(UsageError) as caught:
            parse_config(text, tmp_path)
        assert "\n" not in str(caught.value)
    for text in ("[" * 10**5, "[1]", "{", '{"a": ' + "[" * 30 + "]" * 30 + "}", " " * 10**7):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(UsageError):
            read_json(tmp_path / "x.json")


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save([{"module.begin_conv.weight": Evil(mark)}, {}], tmp_path / "evil.pth")
    with pytest.raises(UsageError, match="more than plain data"):
        convert("ncsn", tmp_path / "evil.pth", size=32)
    text = f"data: !!python/object/apply:os.system ['touch {mark}']\nmodel: {{ema_rate: 0.9}}"
    assert parse_config(text, tmp_path)["model"] == {"ema_rate": 0.9}
    assert not mark.exists()


def test_foreign_files_are_refused_in_one_line(tmp_path: Path) -> None:
    network = RefineNet(channels=3, size=16, width=4)
    state = theirs(network, ncsn_names(network, UNCONDITIONAL))
    wrong = {
        "of another kind": state,
        "no geometric sequence": state | {"sigmas": LADDER.flip(0)},
        "has no place": state | {"sigmas": LADDER, "extra.weight": torch.ones(3)},
        "another size": state | {"sigmas": LADDER, "end_conv.bias": torch.ones(4)},
    }
    for message, broken in wrong.items():
        with pytest.raises(UsageError, match=message):
            convert("ncsnv2", save(tmp_path / "a.pth", broken), size=16)
    with pytest.raises(UsageError, match="give --size 32"):
        convert("ncsnv2", save(tmp_path / "a.pth", state | {"sigmas": LADDER}))
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:500])
    with pytest.raises(UsageError, match=r"b\.pth is"):
        convert("ncsnv2", tmp_path / "b.pth")
    with pytest.raises(UsageError, match="did you mean ncsn"):
        convert("ncsnv", tmp_path / "a.pth")
