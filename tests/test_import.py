"""Released checkpoints: hand-made files in each layout, read as data and nothing else."""

import argparse
from collections import OrderedDict
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from test_interop import CIFAR10, shaken
from torch import Tensor, nn

from diffgen.config.recipe import recipe_of
from diffgen.errors import UsageError
from diffgen.interop.convert import convert
from diffgen.interop.files import parse_config
from diffgen.interop.parameter_names import CONDITIONAL, UNCONDITIONAL, ddim_names, ncsn_names
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
    network = shaken(UNet(channels=3, size=32, width=8, multipliers=(1, 2, 3), blocks=1))
    state, path = theirs(network, ddim_names(network.state_dict())), tmp_path / "ckpt.pth"
    assert state["mid.attn_1.q.weight"].shape == (24, 24, 1, 1)
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


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"freq_shift": 0}, "freq_shift=0, only 1"),
        ({"num_class_embeds": 10}, "num_class_embeds=10, only None"),
        ({"upsample_type": "resnet"}, "upsample_type=resnet, only conv"),
    ],
    ids=["stated", "classes", "optional"],
)
def test_another_architecture_of_diffusers_is_refused(tmp_path: Path, change, answer) -> None:
    options = {"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 4} | change
    UNet2DModel(**CIFAR10 | options).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=answer):
        convert("ddpm-diffusers", tmp_path)


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
    with pytest.raises(UsageError, match=r"config\.yml"):
        convert("ncsnv2", save(tmp_path / "a.pth", state | {"sigmas": LADDER}))
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:500])
    with pytest.raises(UsageError, match=r"b\.pth is"):
        convert("ncsnv2", tmp_path / "b.pth")
    with pytest.raises(UsageError, match="did you mean ncsn"):
        convert("ncsnv", tmp_path / "a.pth")
