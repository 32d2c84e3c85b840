"""Networks: the papers' sizes and starts, what they may and may not see, refusals."""

import math
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from diffgen.errors import UsageError
from diffgen.model.embedding import sinusoid
from diffgen.model.layers import group_norm
from diffgen.model.unet import UNet

N = TypeVar("N", bound=nn.Module)
EMBEDDINGS = ["add", "scale_shift", "maps"]


def small(**settings) -> UNet:
    """A U-Net of a few thousand parameters, every one of them random (none zero)."""
    settings = {
        "channels": 1,
        "size": 8,
        "width": 8,
        "multipliers": (1, 2),
        "blocks": 1,
    } | settings
    return randomised(UNet(**settings))


def randomised(network: N) -> N:
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return network.eval()


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_unet_has_the_papers_size() -> None:
    network = UNet(channels=3, size=32)
    assert sum(p.numel() for p in network.parameters()) == 35_746_307


def test_unet_of_256_pixels_has_the_papers_size() -> None:
    with torch.device("meta"):
        network = UNet(channels=3, size=256, multipliers=(1, 1, 2, 2, 4, 4))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == 114


def test_unet_starts_at_zero_and_blocks_as_their_shortcuts() -> None:
    network = UNet(channels=3, size=16, width=16, attention=(8,))
    assert network(images(2, 3, 16, 16), torch.zeros(2)).abs().max() == 0
    x = images(2, 16, 16, 16)
    block = network.get_submodule("descents.0.blocks.0")
    assert torch.equal(block(x, torch.ones(2, 64)), x)
    x = images(2, 32, 4, 4)
    assert torch.equal(network.middle(x, torch.ones(2, 64)), x)


def test_level_is_embedded_as_in_ddpm() -> None:
    row = sinusoid(torch.tensor([3.0]), 6)[0].tolist()
    angles = [3.0, 3.0 * 1e-2, 3.0 * 1e-4]
    assert row == pytest.approx([*map(math.sin, angles), *map(math.cos, angles)], rel=1e-5)


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("downsample", ["strided", "pooled"])
def test_every_parameter_gets_a_finite_gradient(embedding: str, downsample: str) -> None:
    network = small(embedding=embedding, downsample=downsample, attention=(8,), num_classes=3)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(images(4, 1, 8, 8), torch.tensor([0.0, 1, 500, 999]), torch.arange(4))
    out.float().square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_level_and_label_matter_and_no_label_is_the_null_label(embedding: str) -> None:
    network, x = small(embedding=embedding, num_classes=3), images(2, 1, 8, 8)
    told = torch.full((2,), 7.0)
    null = network(x, told, torch.full((2,), 3))
    torch.testing.assert_close(network(x, told), null, rtol=0, atol=0)
    assert (network(x, told, torch.tensor([3, 1])) - null).flatten(1).abs().amax(1)[0] == 0
    assert (network(x, told, torch.tensor([3, 1])) - null).flatten(1).abs().amax(1)[1] > 1e-4
    assert (network(x, told + 5) - null).abs().max() > 1e-4


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_untold_network_has_no_level_input(embedding: str) -> None:
    network, x = small(embedding=embedding, told=False), images(2, 1, 8, 8)
    assert network.condition(x, None, None) is None
    torch.testing.assert_close(network(x, torch.ones(2)), network(x, None), rtol=0, atol=0)
    labelled = small(embedding=embedding, told=False, num_classes=2)
    assert (labelled(x, None, torch.tensor([0, 0])) - labelled(x, None)).abs().max() > 1e-4


def test_pixels_far_apart_see_each_other_in_the_middle() -> None:
    network = small(attention=())
    x = images(1, 1, 8, 8).requires_grad_()
    network(x, torch.zeros(1))[0, 0, 0, 0].backward()
    assert x.grad is not None and x.grad[0, 0, 7, 7].abs() > 0


@pytest.mark.parametrize(
    "channels, groups, expected",
    [(128, 32, 32), (384, 32, 32), (64, 32, 16), (20, 32, 5), (6, 8, 1)],
)
def test_groups_divide_and_keep_four_channels(channels: int, groups: int, expected: int) -> None:
    assert group_norm(channels, groups).num_groups == expected


def test_sizes_that_cannot_be_halved_name_the_ones_that_can() -> None:
    with pytest.raises(UsageError, match=r"30 pixels .* 8 divides \(24 or 32\)"):
        UNet(channels=3, size=30)


def test_misuse_is_refused() -> None:
    with pytest.raises(UsageError, match="unconditional"):
        small()(images(1, 1, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(UsageError, match="told"):
        small()(images(1, 1, 8, 8), None)
    with pytest.raises(UsageError, match="heads"):
        UNet(channels=1, size=8, width=8, heads=3)
