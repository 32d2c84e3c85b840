"""Our U-Net's parameters under the names of diffusers.UNet2DModel, and back.

The counterpart of `UNet(**settings)` is UNet2DModel in the configuration of
google/ddpm-cifar10-32: freq_shift 1, no flip of sine and cosine, downsample_padding 0, norm_eps
1e-6. Embedding "scale_shift" is its resnet_time_scale_shift, which needs attn_norm_num_groups too.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

from diffgen.errors import UsageError
from diffgen.interop.mapping import State, adopt, release
from diffgen.network.unet import UNet

BLOCK = {
    "norm": "norm1",
    "conv": "conv1",
    "emb_norm.emb_proj": "time_emb_proj",
    "emb_norm.norm": "norm2",
    "last": "conv2",
    "shortcut": "conv_shortcut",
}
ATTENTION = {
    "attend.norm": ("group_norm",),
    "attend.qkv": ("to_q", "to_k", "to_v"),
    "attend.out": ("to_out.0",),
}
OLD = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def to_diffusers(state: Mapping[str, Tensor]) -> State:
    """The state of our U-Net as one that UNet2DModel.load_state_dict accepts."""
    return release(state, diffusers_names(state))


def from_diffusers(state: Mapping[str, Tensor], network: UNet) -> State:
    """The state of a UNet2DModel as one that `network`, its counterpart, accepts.

    Reads attention under its old names (query, proj_attn), too. UsageError when it does not fit.
    """
    return adopt(modern(state), diffusers_names(network.state_dict()), network)


def diffusers_names(keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Their names for each of our keys, several where ours joins their queries, keys, values."""
    keys = list(keys)
    last = max(int(key.split(".")[1]) for key in keys if key.startswith("ascents."))
    return {key: _names(key, last) for key in keys}


def modern(state: Mapping[str, Tensor]) -> State:
    """The state with attention under the names of today's diffusers."""
    for old, new in OLD.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    return dict(state)


def _names(key: str, last: int) -> tuple[str, ...]:
    stem, leaf = key.rsplit(".", 1)
    match stem.split("."):
        case ["condition", "level", index]:
            names = (f"time_embedding.linear_{1 + int(index) // 2}",)
        case ["condition", "label", "table"]:
            names = ("class_embedding",)
        case ["descents", "0", "enter"]:
            names = ("conv_in",)
        case ["descents", level, "enter", "conv"]:
            names = (f"down_blocks.{int(level) - 1}.downsamplers.0.conv",)
        case ["descents", level, "blocks", index, *part]:
            names = _parts(f"down_blocks.{level}", index, part)
        case ["middle", which, *part]:
            names = _parts("mid_block", {"first": "0", "second": "1"}[which], part)
        case ["ascents", level, "blocks", index, *part]:
            names = _parts(f"up_blocks.{last - int(level)}", index, part)
        case ["ascents", "0", "leave", index]:
            names = ({"0": "conv_norm_out", "2": "conv_out"}[index],)
        case ["ascents", level, "leave", "conv"]:
            names = (f"up_blocks.{last - int(level)}.upsamplers.0.conv",)
        case _:
            raise UsageError(f"{key} has no counterpart in diffusers.UNet2DModel")
    return tuple(f"{name}.{leaf}" for name in names)


def _parts(where: str, index: str, part: list[str]) -> tuple[str, ...]:
    name = ".".join(part)
    if name in BLOCK:
        return (f"{where}.resnets.{index}.{BLOCK[name]}",)
    return tuple(f"{where}.attentions.{index}.{theirs}" for theirs in ATTENTION[name])
