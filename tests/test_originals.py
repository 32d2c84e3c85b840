"""Networks equal the papers' own code, whose answers are in tests/data/originals."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from originals import CASES, CLASSES, SIZE, expected, inputs
from torch import Tensor, nn

from diffgen.interop.files import State, adopt
from diffgen.interop.parameter_names import dit_names
from diffgen.network.dit import DiT


def dit() -> nn.Module:
    return DiT(
        channels=3, size=SIZE, num_classes=CLASSES, out_channels=6, width=24, depth=2, heads=3
    )


Adopted = Callable[[State, nn.Module], State]
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Adopted]] = {
    "dit": (dit, lambda state, network: adopt(state, dit_names(network.state_dict()), network)),
}


def answer(network: nn.Module, name: str) -> Tensor:
    x, c_noise, label, _ = inputs(CASES[name])
    return network(x, c_noise, label)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_network_equals_the_original(name: str) -> None:
    make, adopted = NETWORKS[name]
    state, out = expected(name)
    network = make().eval()
    network.load_state_dict(adopted(state, network))
    assert out["out"].std() > 0.05
    torch.testing.assert_close(answer(network, name), out["out"], rtol=1e-5, atol=1e-5)


# Sizes that the papers print, in millions.


@pytest.mark.parametrize(
    ("settings", "millions"),
    [
        ({}, 33),
        ({"width": 768, "heads": 12}, 130),
        ({"width": 1024, "depth": 24, "heads": 16}, 458),
        ({"width": 1152, "depth": 28, "heads": 16}, 675),
    ],
)
def test_transformers_have_the_papers_sizes(settings: dict[str, Any], millions: int) -> None:
    with torch.device("meta"):
        network = DiT(channels=4, size=32, num_classes=1000, out_channels=8, **settings)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions
