"""Networks: what they are c_noise and what they may see; the U-Net's sizes, start, refusals."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import torch
import yaml
from torch import Tensor, nn

from diffgen.config.build import build
from diffgen.errors import UsageError
from diffgen.network.dilated import Dilated
from diffgen.network.dit import DiT
from diffgen.network.embedding import sinusoid
from diffgen.network.layers import group_norm
from diffgen.network.mp_blocks import MPBlock
from diffgen.network.mp_unet import MPUNet
from diffgen.network.ncsn_refinenet import NCSNRefineNet
from diffgen.network.refinenet import RefineNet
from diffgen.network.song_unet import SongUNet
from diffgen.network.unet import UNet

CONFIGS = Path(__file__).parents[1] / "configs" / "network"
N = TypeVar("N", bound=nn.Module)
Make = Callable[..., nn.Module]

unet = partial(UNet, width=8, multipliers=(1, 2), blocks=1)
song = partial(SongUNet, width=8, multipliers=(1, 2), blocks=1)
mp_unet = partial(
    MPUNet, width=8, multipliers=(1, 2), blocks=1, attention=(4,), head_width=8, uncertainty=0
)
dit = partial(DiT, width=8, depth=2, heads=2)
WITH_LEVEL: dict[str, Make] = {
    "unet-add": unet,
    "unet-scale_shift": partial(unet, embedding="scale_shift", head_width=4, attention=(8,)),
    "unet-maps": partial(unet, embedding="maps", downsample="pooled"),
    "unet-plain": partial(unet, downsample="plain"),
    "unet-residual": partial(unet, downsample="residual", frequencies="cosine"),
    "song_unet": song,
    "song_unet-ncsnpp": partial(song, embedding="fourier", encoder="residual", taps=(1, 3, 3, 1)),
    "song_unet-skip": partial(song, encoder="skip", decoder="skip"),
    "mp_unet": mp_unet,
    "dilated": partial(Dilated, width=8),
    "dit": dit,
    "ncsn_refinenet": partial(NCSNRefineNet, width=4, levels=10),
}
WITHOUT_LEVEL: dict[str, Make] = {
    "unet": partial(unet, has_noise_input=False),
    "dilated": partial(Dilated, width=8, has_noise_input=False),
    "song_unet": partial(song, has_noise_input=False),
    "mp_unet": partial(mp_unet, has_noise_input=False),
    "dit": partial(dit, has_noise_input=False),
    "refinenet": partial(RefineNet, width=4),
}
TRAINED = {**WITH_LEVEL, "refinenet": WITHOUT_LEVEL["refinenet"]}


def small(make: Make = unet, **settings) -> nn.Module:
    """A network of a few thousand parameters for 8 x 8 grey images, every one of them random."""
    return randomised(make(channels=1, size=8, **settings))


def randomised(network: N) -> N:
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return network.eval()


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def size_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("make", WITH_LEVEL.values(), ids=WITH_LEVEL)
def test_level_matters_and_no_label_is_the_null_label(make: Make) -> None:
    network, x, c_noise = small(make, num_classes=3), images(2, 1, 8, 8), torch.full((2,), 4.0)
    null = network(x, c_noise, torch.full((2,), 3))
    assert torch.equal(network(x, c_noise), null)
    first, second = network(x, c_noise, torch.tensor([3, 1])) - null
    assert first.abs().max() < 1e-6
    assert second.abs().max() > 1e-3
    assert (network(x, c_noise + 5) - null).abs().max() > 1e-3


@pytest.mark.parametrize("make", WITHOUT_LEVEL.values(), ids=WITHOUT_LEVEL)
def test_network_without_a_noise_input_ignores_the_level_but_not_the_label(make: Make) -> None:
    x, c_noise = images(2, 1, 8, 8), torch.tensor([0.0, 9.0])
    assert torch.equal(small(make)(x, c_noise), small(make)(x, None))
    labelled = small(make, num_classes=2)
    assert (labelled(x, None, torch.zeros(2).long()) - labelled(x, None)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "make", [*WITH_LEVEL.values(), WITHOUT_LEVEL["refinenet"]], ids=[*WITH_LEVEL, "refinenet"]
)
def test_every_parameter_gets_a_finite_gradient_in_bfloat16(make: Make) -> None:
    network = small(make, num_classes=3)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(images(4, 1, 8, 8), torch.tensor([0.0, 1, 5, 9]), torch.arange(4))
    out.float().square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    "make", [*WITH_LEVEL.values(), WITHOUT_LEVEL["refinenet"]], ids=[*WITH_LEVEL, "refinenet"]
)
def test_an_image_does_not_see_its_batch(make: Make) -> None:
    network, x = small(make).train(), images(3, 1, 8, 8)
    c_noise = torch.tensor([0.0, 3.0, 9.0])
    torch.testing.assert_close(network(x, c_noise)[1:2], network(x[1:2], c_noise[1:2]))


@pytest.mark.parametrize("make", WITH_LEVEL.values(), ids=WITH_LEVEL)
def test_misuse_is_refused(make: Make) -> None:
    with pytest.raises(UsageError, match="unconditional"):
        small(make)(images(1, 1, 8, 8), torch.zeros(1), torch.zeros(1).long())
    with pytest.raises(UsageError, match="noise level"):
        small(make)(images(1, 1, 8, 8), None)


OWN = [path for path in CONFIGS.glob("*.yaml") if "name" in yaml.safe_load(path.read_text())]


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)  # presets include these
def test_configs_spell_out_the_defaults(path: Path) -> None:
    settings = yaml.safe_load(path.read_text())
    context = {"channels": 3, "size": 32, "num_classes": 2, "levels": 10, "has_noise_input": True}
    with torch.device("meta"):
        spelt = build("network", settings, **context)
        default = build("network", {"name": path.stem}, **context)
    assert str(spelt) == str(default)


def test_unet_has_the_papers_sizes() -> None:
    with torch.device("meta"):
        cifar10 = UNet(channels=3, size=32)
        lsun = UNet(channels=3, size=256, multipliers=(1, 1, 2, 2, 4, 4))
    assert size_of(cifar10) == 35_746_307
    assert round(size_of(lsun) / 1e6) == 114


def test_unet_starts_at_zero_and_its_blocks_as_their_shortcuts() -> None:
    network = UNet(channels=3, size=16, width=16, attention=(8,))
    assert network(images(2, 3, 16, 16), torch.zeros(2)).abs().max() == 0
    x = images(2, 16, 16, 16)
    block = network.get_submodule("descents.0.blocks.0")
    assert torch.equal(block(x, torch.ones(2, 64)), x)
    x = images(2, 32, 4, 4)
    assert torch.equal(network.middle(x, torch.ones(2, 64)), x)


def test_unet_starts_with_the_papers_variance() -> None:
    weight = UNet(channels=3, size=32).get_parameter("descents.1.blocks.0.conv.weight")
    assert weight.var().item() == pytest.approx(1 / (9 * (128 + 256) / 2), rel=0.01)


def test_level_is_embedded_as_in_ddpm() -> None:
    row = sinusoid(torch.tensor([3.0]), 6)[0].tolist()
    angles = [3.0, 3.0 * 1e-2, 3.0 * 1e-4]
    assert row == pytest.approx([*map(math.sin, angles), *map(math.cos, angles)], rel=1e-5)


def test_pixels_far_apart_see_each_other_in_the_middle() -> None:
    network, x = small(attention=()), images(1, 1, 8, 8).requires_grad_()
    network(x, torch.zeros(1))[0, 0, 0, 0].backward()
    assert x.grad is not None
    assert x.grad[0, 0, 7, 7].abs() > 0


@pytest.mark.parametrize(
    ("channels", "groups", "expected"),
    [(128, 32, 32), (384, 32, 32), (64, 32, 16), (20, 32, 5), (6, 8, 1)],
)
def test_groups_divide_and_keep_four_channels(channels: int, groups: int, expected: int) -> None:
    assert group_norm(channels, groups).num_groups == expected


def test_sizes_that_cannot_be_halved_name_the_ones_that_can() -> None:
    with pytest.raises(UsageError, match=r"30 pixels .* 8 divides \(24 or 32\)"):
        UNet(channels=3, size=30)
    with pytest.raises(UsageError, match="heads"):
        UNet(channels=1, size=8, width=8, heads=3)


@pytest.mark.parametrize("make", [unet, song], ids=["unet", "song_unet"])
def test_a_network_is_told_the_augmentation_and_none_is_no_augmentation(make: Make) -> None:
    network, x, c_noise = small(make, augment_dim=9), images(2, 1, 8, 8), torch.ones(2)
    plain = network(x, c_noise)
    assert torch.equal(network(x, c_noise, None, torch.zeros(2, 9)), plain)
    assert (network(x, c_noise, None, torch.ones(2, 9)) - plain).abs().max() > 1e-3


@torch.no_grad()
def test_mp_unet_holds_its_weights_and_activations_at_unit_magnitude() -> None:
    """Training sets the weights, sampling does not; every layer's output is of their size."""
    network = MPUNet(channels=3, size=16, width=32, multipliers=(1, 2), blocks=1, head_width=32)
    for parameter in network.parameters():
        parameter.data *= 1 if parameter.ndim == 0 else 3
    weight = network.get_parameter("descents.0.0.conv.weight")
    outputs: list[float] = []
    for module in network.modules():
        if isinstance(module, MPBlock):
            module.register_forward_hook(lambda *seen: outputs.append(seen[-1].std().item()))
    x, c_noise = images(8, 3, 16, 16), torch.linspace(-1, 1, 8)
    network.eval()(x, c_noise)
    assert weight.square().mean() > 8
    assert outputs
    assert all(0.7 < spread < 1.4 for spread in outputs)
    network.train()(x, c_noise)
    torch.testing.assert_close(weight.square().mean((1, 2, 3)), torch.ones(32), rtol=0, atol=1e-3)
