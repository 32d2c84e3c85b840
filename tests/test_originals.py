"""Networks equal the papers' own code, whose answers are in tests/data/originals."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from originals import AUGMENT, CASES, CLASSES, SIZE, expected, inputs
from torch import Tensor, nn

from diffgen.interop.adm import adm_names, adm_state
from diffgen.interop.dit import dit_names
from diffgen.interop.edm import edm2_names, edm_names, edm_state
from diffgen.interop.files import State, adopt
from diffgen.network.classifier_unet import ClassifierUNet
from diffgen.network.dit import DiT
from diffgen.network.mp_unet import MPUNet
from diffgen.network.song_unet import SongUNet
from diffgen.network.unet import UNet


def dit() -> nn.Module:
    return DiT(
        channels=3, size=SIZE, num_classes=CLASSES, out_channels=6, width=24, depth=2, heads=3
    )


def song(**settings: Any) -> SongUNet:
    blocks = {"width": 16, "multipliers": (1, 2, 2), "blocks": 2, "attention": (4,)}
    shape = {"channels": 3, "size": SIZE, "augment_dim": AUGMENT}
    return SongUNet(**shape, **blocks, **settings)


COSINE = {"frequencies": "cosine", "norm_eps": 1e-5}
HALF = {"multipliers": (0.5, 1), "stem": 64, "exact_groups": True}
LIKE_ADM = {"downsample": "residual", "embedding": "scale_shift", "head_width": 64, **COSINE}


def unet(**settings: Any) -> UNet:
    blocks = {"multipliers": (1, 2), "blocks": 1, "attention": (4,), "out_channels": 6}
    return UNet(channels=3, size=SIZE, num_classes=CLASSES, **{**blocks, **settings})


def classifier(**settings: Any) -> ClassifierUNet:
    blocks = {"width": 64, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}
    more = {"noise_conditional": True, "exact_groups": True, **settings}
    return ClassifierUNet(channels=3, size=SIZE, num_classes=CLASSES, **blocks, **more)


def edm_adm() -> UNet:
    like_edm = {"width": 64, "multipliers": (1, 2, 2), "out_channels": 3}
    return unet(**LIKE_ADM, **like_edm, augment_dim=AUGMENT)


def flow_matching() -> UNet:
    like_flow = {"num_classes": 0, "out_channels": 3, "embedding": "scale_shift", **COSINE}
    widths = {"width": 32, "stem": 64, "multipliers": (2, 4), "exact_groups": True}
    blocks = {"blocks": 1, "attention": (4,), "downsample": "plain"}
    return UNet(channels=3, size=SIZE, **widths, **blocks, **like_flow)


def adopted_adm(state: State, network: UNet | ClassifierUNet, new_order: bool = False) -> State:
    return adopt(adm_state(state, network, new_order), adm_names(network), network)


def edm2() -> MPUNet:
    blocks = {"width": 16, "multipliers": (1, 2, 2), "blocks": 1, "attention": (4,)}
    return MPUNet(channels=3, size=SIZE, num_classes=CLASSES, head_width=16, **blocks)


def adopted_edm(state: State, network: UNet | SongUNet) -> State:
    return adopt(edm_state(state), edm_names(network), network)


FIR = (1, 3, 3, 1)
NETWORKS: dict[str, tuple[Callable[..., Any], Callable[..., State]]] = {
    "dit": (dit, lambda state, network: adopt(state, dit_names(network.state_dict()), network)),
    "ddpmpp": (partial(song, num_classes=CLASSES), adopted_edm),
    "ncsnpp": (partial(song, embedding="fourier", encoder="residual", taps=FIR), adopted_edm),
    "song_skip": (partial(song, encoder="skip", decoder="skip", taps=FIR), adopted_edm),
    "edm_adm": (edm_adm, adopted_edm),
    "adm": (partial(unet, **LIKE_ADM), adopted_adm),
    "adm_new_order": (partial(unet, **LIKE_ADM), partial(adopted_adm, new_order=True)),
    "adm_512": (partial(unet, **LIKE_ADM, **HALF), adopted_adm),
    "adm_classifier": (classifier, adopted_adm),
    "adm_classifier_average": (
        partial(classifier, downsample="centered", pool="average"),
        adopted_adm,
    ),
    "edm2": (edm2, lambda state, network: adopt(state, edm2_names(network), network)),
    "flow_matching": (flow_matching, adopted_adm),
    "improved": (partial(unet, heads=4, downsample="centered", **COSINE), adopted_adm),
}


def answer(network: nn.Module, name: str) -> Tensor:
    """What a network of ours says to the inputs of a case, of which it takes what it knows."""
    x, c_noise, label, augment = inputs(CASES[name])
    if getattr(network, "classifies", False):
        return network(x, c_noise)
    told = [label if network.num_classes else None]
    augmented = getattr(network.get_submodule("condition"), "augment", None)
    return network(x, c_noise, *told, *([augment] if augmented else []))


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_network_equals_the_original(name: str) -> None:
    make, adopted = NETWORKS[name]
    state, out = expected(name)
    network = make().eval()
    network.load_state_dict(adopted(state, network))
    assert out["out"].std() > 0.05
    torch.testing.assert_close(answer(network, name), out["out"], rtol=1e-5, atol=1e-5)
    if "log_variance" in out:
        found = network.log_uncertainty(inputs(CASES[name])[1])
        torch.testing.assert_close(found, out["log_variance"], rtol=1e-5, atol=1e-5)


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


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 55_733_891),
        ({"embedding": "fourier", "encoder": "residual", "taps": FIR}, 56_397_827),
    ],
)
def test_song_unets_have_the_sizes_of_edm(settings: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        network = SongUNet(channels=3, size=32, augment_dim=AUGMENT, **settings)
    assert sum(p.numel() for p in network.parameters()) == count
