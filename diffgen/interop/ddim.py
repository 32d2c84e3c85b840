"""The names of DDIM's code for the parameters of our U-Net (the same as pytorch_diffusion's)."""

from collections.abc import Iterable

from diffgen.errors import UsageError

BLOCK = {
    "norm": "norm1",
    "conv": "conv1",
    "emb_norm.emb_proj": "temb_proj",
    "emb_norm.norm": "norm2",
    "last": "conv2",
    "shortcut": "nin_shortcut",
}
ATTENTION = {"attend.norm": ("norm",), "attend.qkv": ("q", "k", "v"), "attend.out": ("proj_out",)}


def ddim_names(keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Their names for each of our keys, several where ours joins their queries, keys, values."""
    return {key: _names(key) for key in keys}


def _names(key: str) -> tuple[str, ...]:
    stem, leaf = key.rsplit(".", 1)
    match stem.split("."):
        case ["condition", "level", index]:
            names = (f"temb.dense.{int(index) // 2}",)
        case ["descents", "0", "enter"]:
            names = ("conv_in",)
        case ["descents", level, "enter", "conv"]:
            names = (f"down.{int(level) - 1}.downsample.conv",)
        case ["descents", level, "blocks", index, *part]:
            names = _parts(f"down.{level}.block.{index}", f"down.{level}.attn.{index}", part)
        case ["middle", which, *part]:
            names = _parts(f"mid.block_{1 if which == 'first' else 2}", "mid.attn_1", part)
        case ["ascents", level, "blocks", index, *part]:
            names = _parts(f"up.{level}.block.{index}", f"up.{level}.attn.{index}", part)
        case ["ascents", "0", "leave", index]:
            names = ({"0": "norm_out", "2": "conv_out"}[index],)
        case ["ascents", level, "leave", "conv"]:
            names = (f"up.{level}.upsample.conv",)
        case _:
            raise UsageError(f"{key} has no counterpart in DDIM's networks")
    return tuple(f"{name}.{leaf}" for name in names)


def _parts(block: str, attention: str, part: list[str]) -> tuple[str, ...]:
    name = ".".join(part)
    if name in BLOCK:
        return (f"{block}.{BLOCK[name]}",)
    return tuple(f"{attention}.{theirs}" for theirs in ATTENTION[name])
