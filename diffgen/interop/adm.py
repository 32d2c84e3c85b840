"""U-Nets of openai/guided-diffusion and openai/improved-diffusion: what their weights tell of
them, and their parameters as ours."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffgen.errors import UsageError
from diffgen.interop.files import State
from diffgen.network.attention import SelfAttention
from diffgen.network.blocks import Block
from diffgen.network.classifier_unet import AveragePool, ClassifierUNet
from diffgen.network.unet import UNet

BLOCK = {
    "norm": "in_layers.0",
    "conv": "in_layers.2",
    "emb_norm.emb_proj": "emb_layers.1",
    "emb_norm.norm": "out_layers.0",
    "last": "out_layers.3",
    "shortcut": "skip_connection",
}
POOL = {"norm": "out.0", "pool.qkv": "out.2.qkv_proj", "pool.out": "out.2.c_proj"}
ATTENTION = {"attend.norm": "norm", "attend.qkv": "qkv", "attend.out": "proj_out"}

# The sizes of images of released networks, by their multipliers.
SIZES = {
    (1, 2, 2, 2): 32,
    (1, 2, 3, 4): 64,
    (1, 1, 2, 3, 4): 128,
    (1, 1, 2, 2, 4, 4): 256,
    (0.5, 1, 1, 2, 2, 4, 4): 512,
}
CONV = re.compile(r"input_blocks\.(\d+)\.0\.in_layers\.2\.weight$")


def shapes_of(state: State, path: Path, blocks: int | None = None) -> dict[str, Any]:
    """What the weights themselves tell of the network; `blocks` at each level, if known."""
    width = state["time_embed.0.weight"].shape[1]
    found = {int(m[1]): value for key, value in state.items() if (m := CONV.match(key))}
    residual = not any(key.endswith(".op.weight") for key in state)
    last = max(found)
    blocks = blocks or _blocks(state, residual, found)
    each = blocks + 1
    levels = last // each + 1
    widths = [len(found[level * each + 1]) for level in range(levels)]
    stem = len(state["input_blocks.0.0.weight"])
    if stem not in (width, widths[0]) or any(2 * w % width for w in widths):
        raise UsageError(f"no import of {path}: channels of {widths} at a width of {width}")
    places = [f"input_blocks.{level * each + 1}.1.qkv.weight" for level in range(levels)]
    emb, conv = "emb_layers.1.weight", "in_layers.2.weight"
    scaled = len(state[f"middle_block.0.{emb}"]) == 2 * len(state[f"middle_block.0.{conv}"])
    return {
        "width": width,
        "multipliers": [w / width if w % width else w // width for w in widths],
        **({} if stem == width else {"stem": stem}),
        "blocks": blocks,
        "attends": [place in state for place in places],
        "embedding": "scale_shift" if scaled else "add",
        "downsample": "residual" if residual else "centered",
    }


def known_size(size: int | None, path: Path) -> int:
    """The size of the images; UsageError where nothing tells it."""
    if not size:
        raise UsageError(f"{path} does not tell the size of the images: give it (--size 64)")
    return size


def network_of(shapes: Mapping[str, Any], size: int) -> dict[str, Any]:
    """What the recipes of all their networks share, for images of `size` pixels."""
    own = {key: value for key, value in shapes.items() if key != "attends"}
    attention = [size >> level for level, has in enumerate(shapes["attends"]) if has]
    return {**own, "attention": attention, "exact_groups": True}


def _blocks(state: State, residual: bool, found: dict[int, Any]) -> int:
    """Residual blocks of a level, before the first that halves the resolution."""
    if not residual:
        halving = min(int(key.split(".")[1]) for key in state if key.endswith(".op.weight"))
        return halving - 1
    ups = sorted(
        int(key.split(".")[1])
        for key in state
        if re.match(r"output_blocks\.\d+\.[12]\.in_layers\.2\.weight$", key)
    )
    return ups[0] if ups else max(found)


def adm_names(network: UNet | ClassifierUNet) -> dict[str, tuple[str, ...]]:
    """Their name for each key of our U-Net, or of our classifier.

    They number the blocks through, those that change the resolution among them on the way down,
    and within another block's number on the way up.
    """
    return {key: (_name(key, network),) for key in network.state_dict()}


def _name(key: str, network: nn.Module) -> str:
    stem, leaf = key.rsplit(".", 1)
    depth = len(list(network.get_submodule("descents").children()))
    each = len(list(network.get_submodule("descents.0.blocks").children())) + 1

    def up(level: str, index: int) -> str:
        return f"output_blocks.{(depth - 1 - int(level)) * each + index}"

    match stem.split("."):
        case ["condition", "level", index]:
            name = f"time_embed.{index}"
        case ["condition", "label", "table"]:
            name = "label_emb"
        case ["descents", "0", "enter"]:
            name = "input_blocks.0.0"
        case ["descents", level, "enter", *part]:
            name = f"input_blocks.{int(level) * each}.0.{_changed(network, part, 'op')}"
        case ["descents", level, "blocks", index, *part]:
            name = _part(f"input_blocks.{int(level) * each + 1 + int(index)}", part)
        case ["middle", which, *part]:
            name = _part("middle_block", part, "0" if which == "first" else "2")
        case ["ascents", "0", "leave", index]:
            name = f"out.{index}"
        case ["ascents", level, "leave", *part]:
            attends = f"ascents.{level}.blocks.0.attend.qkv.weight" in network.state_dict()
            where = f"{up(level, each - 1)}.{2 if attends else 1}"
            name = f"{where}.{_changed(network, part, 'conv')}"
        case ["ascents", level, "blocks", index, *part]:
            name = _part(up(level, int(index)), part)
        case ["pool"]:
            return "out.2.positional_embedding"
        case ["pool", "out"] if isinstance(network.get_submodule("pool"), AveragePool):
            name = "out.3"
        case _:
            name = POOL[stem]
    return f"{name}.{leaf}"


def _changed(network: nn.Module, part: list[str], convolution: str) -> str:
    """A part of what changes the resolution: a block, or one convolution."""
    residual = isinstance(network.get_submodule("descents.1.enter"), Block)
    return BLOCK[".".join(part)] if residual else convolution


def _part(where: str, part: list[str], block: str = "0") -> str:
    name = ".".join(part)
    if name in ATTENTION:
        return f"{where}.1.{ATTENTION[name]}"
    return f"{where}.{block}.{BLOCK[name]}"


def adm_state(
    state: Mapping[str, Tensor], network: UNet | ClassifierUNet, new_order: bool = False
) -> State:
    """Their state with a null label, the zero vector, and our order of heads.

    They split channels into (heads, q k v, channels of a head), or in their new attention order,
    as where a classifier pools, as we do.
    """
    ours = dict(state)
    if "label_emb.weight" in ours:
        rows = ours["label_emb.weight"]
        ours["label_emb.weight"] = torch.cat((rows, torch.zeros_like(rows[:1])))
    for key, (name,) in adm_names(network).items():
        if ".attend.qkv." in key and name in ours and not new_order:
            attention = network.get_submodule(key[: key.index(".qkv")])
            assert isinstance(attention, SelfAttention)
            value = ours[name].flatten(1) if ours[name].ndim > 1 else ours[name]
            parts = value.reshape(attention.heads, 3, -1, *value.shape[1:])
            ours[name] = parts.transpose(0, 1).reshape(value.shape)
    return ours
