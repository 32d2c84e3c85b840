"""Our U-Net's parameters under the names of diffusers.UNet2DModel, and back.

The counterpart of `UNet(**settings)` is UNet2DModel in the configuration of
google/ddpm-cifar10-32: freq_shift 1, no flip of sine and cosine, downsample_padding 0, norm_eps
1e-6. Embedding "scale_shift" is its resnet_time_scale_shift, which needs attn_norm_num_groups too.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.model.unet import UNet

State = dict[str, Tensor]

BLOCK = {
    "norm": "norm1",
    "conv": "conv1",
    "told_norm.told": "time_emb_proj",
    "told_norm.norm": "norm2",
    "last": "conv2",
    "shortcut": "conv_shortcut",
}
ATTENTION = {"attend.norm": "group_norm", "attend.qkv": "to_{}", "attend.out": "to_out.0"}
OLD = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def to_diffusers(state: Mapping[str, Tensor]) -> State:
    """The state of our U-Net as one that UNet2DModel.load_state_dict accepts."""
    theirs: State = {}
    for key, name in _names(state).items():
        names = [name.format(part) for part in "qkv"] if "{}" in name else [name]
        parts = state[key].chunk(len(names))
        theirs |= {n: part.clone() for n, part in zip(names, parts, strict=True)}
    return theirs


def from_diffusers(state: Mapping[str, Tensor], network: UNet) -> State:
    """The state of a UNet2DModel as one that `network`, its counterpart, accepts.

    Reads attention under its old names (query, proj_attn), too. UsageError when it does not fit.
    """
    state = {_modern(key): value for key, value in state.items()}
    ours: State = {}
    for key, name in _names(network.state_dict()).items():
        names = [name.format(part) for part in "qkv"] if "{}" in name else [name]
        missing = [n for n in names if n not in state]
        if missing:
            raise UsageError(f"the file lacks {missing[0]}: it holds another architecture")
        parts = [state.pop(n) for n in names]
        ours[key] = parts[0] if len(parts) == 1 else torch.cat(parts)
    if state:
        raise UsageError(f"{next(iter(state))} has no place here: another architecture")
    return ours


def _modern(key: str) -> str:
    for old, new in OLD.items():
        key = key.replace(old, new)
    return key


def _names(keys: Mapping[str, Tensor]) -> dict[str, str]:
    last = max(int(key.split(".")[1]) for key in keys if key.startswith("ascents."))
    return {key: _name(key, last) for key in keys}


def _name(key: str, last: int) -> str:
    stem, leaf = key.rsplit(".", 1)
    match stem.split("."):
        case ["condition", "level", index]:
            name = f"time_embedding.linear_{1 + int(index) // 2}"
        case ["condition", "label", "table"]:
            name = "class_embedding"
        case ["descents", "0", "enter"]:
            name = "conv_in"
        case ["descents", level, "enter", "conv"]:
            name = f"down_blocks.{int(level) - 1}.downsamplers.0.conv"
        case ["descents", level, "blocks", index, *part]:
            name = f"down_blocks.{level}.{_part(part, index)}"
        case ["middle", which, *part]:
            name = f"mid_block.{_part(part, '0' if which == 'first' else '1')}"
        case ["ascents", level, "blocks", index, *part]:
            name = f"up_blocks.{last - int(level)}.{_part(part, index)}"
        case ["ascents", "0", "leave", index]:
            name = {"0": "conv_norm_out", "2": "conv_out"}[index]
        case ["ascents", level, "leave", "conv"]:
            name = f"up_blocks.{last - int(level)}.upsamplers.0.conv"
        case _:
            raise UsageError(f"{key} has no counterpart in diffusers.UNet2DModel")
    return f"{name}.{leaf}"


def _part(part: list[str], index: str) -> str:
    name = ".".join(part)
    if name in BLOCK:
        return f"resnets.{index}.{BLOCK[name]}"
    return f"attentions.{index}.{ATTENTION[name]}"
