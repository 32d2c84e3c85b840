"""The NCSN family's networks: InstanceNorm++ by hand, numbers of the authors' own code."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from waves import wave, waves

from diffgen.errors import UsageError
from diffgen.interop.parameter_names import CONDITIONAL, UNCONDITIONAL, ncsn_names
from diffgen.network.ncsn_refinenet import NCSNRefineNet
from diffgen.network.refine import Given, InstanceNormPlus
from diffgen.network.refinenet import RefineNet

# What github.com/ermongroup/ncsn (v1) and ncsnv2 (the others, times sigma) give, in float64, for
# the weights and images of waves.py at labels 0 and 2 of 3: pixels (3, 5) of the first channel,
# then corners (-1, 0) of the last.
AUTHORS = {
    "v1": [0.77799016, -0.67565250, -0.16735486, 0.27253323],
    "standard": [0.08235708, -0.19075220, -0.49769304, -0.23658697],
    "deeper": [-0.28247076, -0.06692569, -0.65645696, -0.37646955],
    "deepest": [-0.34948750, -0.45164579, -1.05173502, -0.81042077],
}
NETWORKS: dict[str, tuple[Callable[..., nn.Module], tuple[str, ...], int, int]] = {
    "v1": (partial(NCSNRefineNet, levels=3), CONDITIONAL, 1, 28),
    "standard": (RefineNet, UNCONDITIONAL, 3, 16),
    "deeper": (partial(RefineNet, depth="deeper"), UNCONDITIONAL, 3, 16),
    "deepest": (partial(RefineNet, depth="deepest"), UNCONDITIONAL, 3, 16),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_networks_equal_the_authors(name: str) -> None:
    make, norm, channels, size = NETWORKS[name]
    network = make(channels=channels, size=size, width=8).double()
    wave(network, ncsn_names(network, norm))
    x = waves(2 * channels * size * size).view(2, channels, size, size) / 2 + 0.5
    # The authors count levels from the greatest noise, diffgen from the least.
    out = network(x, torch.tensor([2.0, 0.0]))
    found = [*out[:, 0, 3, 5].tolist(), *out[:, -1, -1, 0].tolist()]
    assert found == pytest.approx(AUTHORS[name], abs=1e-7)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (RefineNet, 29_694_083),
        (partial(RefineNet, depth="deeper"), 83_445_379),
        (partial(RefineNet, depth="deepest"), 94_132_611),
        (partial(NCSNRefineNet, levels=10), 30_117_635),
    ],
    ids=["standard", "deeper", "deepest", "v1"],
)
def test_networks_have_the_authors_size(make: Callable[..., nn.Module], expected: int) -> None:
    with torch.device("meta"):
        network = make(channels=3, size=32)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_instance_norm_plus_follows_its_formula() -> None:
    norm = InstanceNormPlus(3).double()
    norm.table.data = waves(9).view(1, 3, 3)
    x = waves(2 * 3 * 4 * 4).view(2, 3, 4, 4) * 2 + 1
    gamma, alpha, beta = norm.table[0].tolist()
    for image, out in zip(x, norm(x, Given()), strict=True):
        mu = [channel.mean() for channel in image]
        m = sum(mu) / 3
        v = sum((value - m) ** 2 for value in mu) / 2
        for k in range(3):
            plain = (image[k] - mu[k]) / (image[k].var(correction=0) + 1e-5) ** 0.5
            term = alpha[k] * (mu[k] - m) / (v + 1e-5) ** 0.5
            torch.testing.assert_close(out[k], gamma[k] * (plain + term) + beta[k])


def test_a_tint_passes_the_norm_that_plain_instance_norm_hides() -> None:
    norm, x = (
        InstanceNormPlus(3),
        torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
    )
    tint = torch.tensor([0.5, 0.0, -0.5])[:, None, None]
    plain = nn.InstanceNorm2d(3)
    torch.testing.assert_close(plain(x + tint), plain(x), rtol=0, atol=1e-4)
    assert (norm(x + tint, Given()) - norm(x, Given())).abs().amin() > 0.05


def test_norm_of_one_pixel_is_finite_and_counts_in_float32() -> None:
    norm = InstanceNormPlus(4)
    assert norm(torch.rand(2, 4, 1, 1), Given()).isfinite().all()
    x = 100 + torch.rand(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    x = x.bfloat16()
    torch.testing.assert_close(
        norm(x, Given()).float(), norm(x.float(), Given()), rtol=0, atol=0.01
    )


def test_paper_row_0_is_the_most_noise() -> None:
    network, x = NCSNRefineNet(channels=1, size=8, width=4, levels=5), torch.rand(5, 1, 8, 8)
    level = torch.arange(5.0)
    before = network(x, level)
    network.get_parameter("body.norm.table").data[0] += 1
    changed = (network(x, level + 1e-5) - before).flatten(1).abs().amax(1) > 1e-3
    assert changed.tolist() == [False] * 4 + [True]


def test_labels_add_nothing_before_training() -> None:
    torch.manual_seed(0)
    network = RefineNet(channels=1, size=8, width=4, num_classes=3)
    x, bare = torch.rand(3, 1, 8, 8), RefineNet(channels=1, size=8, width=4)
    missing = bare.load_state_dict(network.state_dict(), strict=False)
    assert all(key.endswith(".labels") for key in missing.unexpected_keys)
    torch.testing.assert_close(network(x, None, torch.arange(3)), bare(x, None))


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(UsageError, match="use 16 or more"):
        RefineNet(channels=1, size=8, width=4, depth="deepest")
