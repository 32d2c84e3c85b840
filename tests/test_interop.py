"""Foreign weights: parity with other implementations once names are mapped."""

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from waves import wave, waves

from diffgen.interop.diffusers import from_diffusers, to_diffusers
from diffgen.interop.parameter_names import ddim_names
from diffgen.network.unet import UNet

CIFAR10 = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (128, 256, 256, 256),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 0,
    "act_fn": "silu",
    "attention_head_dim": None,
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
}
OPTIONS = {
    "block_out_channels": (64, 128, 128, 192),
    "norm_num_groups": 16,
    "attn_norm_num_groups": 16,
    "attention_head_dim": 32,
    "resnet_time_scale_shift": "scale_shift",
    "num_class_embeds": 11,
}
PAIRS = {
    "ddpm": (CIFAR10, {}),
    "options": (
        CIFAR10 | OPTIONS,
        {
            "width": 64,
            "multipliers": (1, 2, 2, 3),
            "groups": 16,
            "head_width": 32,
            "embedding": "scale_shift",
            "num_classes": 10,
        },
    ),
}


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """The network with noise on every parameter, so that none is zero and no layer is idle."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


@pytest.mark.parametrize(("theirs", "ours"), PAIRS.values(), ids=PAIRS)
@torch.no_grad()
def test_unet_equals_diffusers(theirs: dict, ours: dict) -> None:
    network = shaken(UNet(channels=3, size=32, **ours))
    other = UNet2DModel(**theirs).eval()
    other.load_state_dict(to_diffusers(network.state_dict()))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    level, label = torch.tensor([3, 998]), torch.tensor([2, 10]) if "num_classes" in ours else None
    expected = other(x, level, class_labels=label).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(network(x, level.float(), label), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_diffusers_weights_come_back_unchanged() -> None:
    other = shaken(UNet2DModel(**CIFAR10))
    network = UNet(channels=3, size=32)
    network.load_state_dict(from_diffusers(other.state_dict(), network))
    back = to_diffusers(network.state_dict())
    assert back.keys() == other.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in other.state_dict().items())


@torch.no_grad()
def test_unet_equals_the_code_of_ddim() -> None:
    """Numbers that github.com/ermongroup/ddim gives for these weights, images and levels."""
    network = UNet(channels=3, size=8, multipliers=(1, 1), blocks=1, attention=(4,))
    wave(network, ddim_names(network.state_dict()))
    x = (waves(2 * 3 * 8 * 8).view(2, 3, 8, 8) / 2 + 0.5).float()
    out = network(x, torch.tensor([3.0, 998.0]))
    found = [*out[:, 0, 3, 5].tolist(), *out[:, -1, -1, 0].tolist()]
    authors = [-0.44855312, -0.23612241, -0.06288038, -0.09508091]
    assert found == pytest.approx(authors, abs=1e-5)
