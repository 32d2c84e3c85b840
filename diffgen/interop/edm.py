"""Networks of NVlabs/edm and NVlabs/edm2: their parameters as those of ours."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from diffgen.interop.files import State
from diffgen.network.mp_unet import MPUNet
from diffgen.network.pyramid import ResidualPyramid
from diffgen.network.song_unet import SongUNet
from diffgen.network.unet import UNet

BLOCK = {
    "norm": "norm0",
    "conv": "conv0",
    "emb_norm.emb_proj": "affine",
    "emb_norm.norm": "norm1",
    "last": "conv1",
    "shortcut": "skip",
    "attend.norm": "norm2",
    "attend.qkv": "qkv",
    "attend.out": "proj",
}
CONDITION = {
    "level.0": "map_layer0",
    "level.2": "map_layer1",
    "label.table": "map_label",
    "augment": "map_augment",
    "fourier": "map_noise",
}
MIDDLE = {"first": "in0", "second": "in1"}


def edm_names(network: UNet | SongUNet) -> dict[str, tuple[str, ...]]:
    """EDM's name for each key of our U-Net (its DhariwalUNet) or SongUNet."""
    pyramid = getattr(network, "pyramid", None)
    aside = "aux_residual" if isinstance(pyramid, ResidualPyramid) else "aux_skip"
    return {key: (_name(key, network, aside),) for key in network.state_dict()}


def _name(key: str, network: UNet | SongUNet, aside: str) -> str:
    def at(level: str | int, part: str) -> str:
        side = network.size >> int(level)
        return f"{side}x{side}_{part}"

    stem, leaf = key.rsplit(".", 1)
    last = len(network.descents) - 1
    match stem.split("."):
        case ["condition", *part]:
            name = CONDITION[".".join(part)]
        case ["stem"] | ["descents", "0", "enter"]:
            name = f"enc.{at(0, 'conv')}"
        case ["halvings", index, *part]:
            name = f"enc.{at(int(index) + 1, 'down')}.{BLOCK['.'.join(part)]}"
        case ["descents", level, "enter", *part]:
            name = f"enc.{at(level, 'down')}.{BLOCK['.'.join(part)]}"
        case ["descents", level, "blocks", index, *part]:
            name = f"enc.{at(level, 'block')}{index}.{BLOCK['.'.join(part)]}"
        case ["pyramid", "convs", index]:
            name = f"enc.{at(int(index) + 1, aside)}"
        case ["middle", which, *part]:
            name = f"dec.{at(last, MIDDLE[which])}.{BLOCK['.'.join(part)]}"
        case ["ascents", "0", "leave", index]:
            name = "out_norm" if index == "0" else "out_conv"
        case ["doublings", level, *part]:
            name = f"dec.{at(level, 'up')}.{BLOCK['.'.join(part)]}"
        case ["ascents", level, "leave", *part]:
            name = f"dec.{at(int(level) - 1, 'up')}.{BLOCK['.'.join(part)]}"
        case ["ascents", level, "blocks", index, *part]:
            name = f"dec.{at(level, 'block')}{index}.{BLOCK['.'.join(part)]}"
        case ["heads", level, index]:
            name = f"dec.{at(level, 'aux_norm' if index == '0' else 'aux_conv')}"
        case _:
            raise KeyError(key)
    return f"{name}.{'freqs' if leaf == 'frequencies' else leaf}"


def edm_state(state: Mapping[str, Tensor]) -> State:
    """EDM's state with labels as rows of a table, the null label's last, and our order of heads.

    Its classes are one-hot rows, none of them for no label: in DDPM++ and NCSN++ times the root of
    their number and with a bias. It splits channels into (heads, channels of a head, q k v).
    """
    ours = {key: value for key, value in state.items() if not key.endswith("resample_filter")}
    for key, value in ours.items():
        if re.search(r"\bqkv\.(weight|bias)$", key):
            rows = value.reshape(-1, 3, *value.shape[1:])
            ours[key] = rows.transpose(0, 1).reshape(value.shape)
    if "map_label.weight" in ours:
        rows = ours["map_label.weight"].T
        bias = ours.pop("map_label.bias", None)
        none = torch.zeros_like(rows[:1]) if bias is None else bias[None]
        rows = rows if bias is None else rows * math.sqrt(len(rows)) + bias
        ours["map_label.weight"] = torch.cat((rows, none))
    return ours


MP_BLOCK = {
    "shortcut": "conv_skip",
    "conv": "conv_res0",
    "emb_proj": "emb_linear",
    "last": "conv_res1",
    "attend.qkv": "attn_qkv",
    "attend.out": "attn_proj",
}
MP_WHOLE = {
    "gain": "unet.out_gain",
    "head": "unet.out_conv",
    "condition.fourier": "unet.emb_fourier",
    "condition.level": "unet.emb_noise",
    "condition.label": "unet.emb_label",
    "uncertainty.fourier": "logvar_fourier",
    "uncertainty.linear": "logvar_linear",
}


def edm2_names(network: MPUNet) -> dict[str, tuple[str, ...]]:
    """EDM2's name for each key of our magnitude-preserving U-Net."""
    return {key: (_mp_name(key, network),) for key in network.state_dict()}


def _mp_name(key: str, network: MPUNet) -> str:
    def at(side: str, level: str | int, part: str, rest: list[str]) -> str:
        size = network.size >> int(level)
        block = ".".join(rest)
        return ".".join((f"unet.{side}.{size}x{size}_{part}", MP_BLOCK.get(block, block))).strip(
            "."
        )

    stem, _, leaf = key.rpartition(".")
    stem = stem if leaf in ("weight", "frequencies", "phases") else key
    end = {"weight": ".weight", "frequencies": ".freqs", "phases": ".phases"}.get(leaf, "")
    match stem.split("."):
        case ["stem"]:
            name = at("enc", 0, "conv", [])
        case ["halvings", index, *part]:
            name = at("enc", int(index) + 1, "down", part)
        case ["descents", level, index, *part]:
            name = at("enc", level, f"block{index}", part)
        case ["middle", index, *part]:
            name = at("dec", len(network.descents) - 1, f"in{index}", part)
        case ["ascents", level, index, *part]:
            name = at("dec", level, f"block{index}", part)
        case ["doublings", index, *part]:
            name = at("dec", index, "up", part)
        case _:
            name = MP_WHOLE[stem]
    return name + end
