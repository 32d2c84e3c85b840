"""The names that other programs give to the parameters of our networks."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from diffgen.errors import UsageError

CONDITIONAL = ("embed.weight",)
UNCONDITIONAL = ("gamma", "alpha", "beta")

STAGES = {4: (1, 2, 3, 4), 5: (1, 2, 3, 4, 5), 6: (1, 2, 3, 31, 4, 5)}
REFINES = {4: (1, 2, 3, 4), 5: (1, 2, 3, 4, 5), 6: (1, 2, 31, 3, 4, 5)}
RESIDUAL = {
    ("first", "norm"): "normalize1",
    ("first", "conv"): "conv1",
    ("second", "norm"): "normalize2",
    ("second", "conv"): "conv2",
    ("shortcut",): "shortcut",
}


def ncsn_names(network: nn.Module, norm: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Their names for each key of `network`; `norm` names the parts of an InstanceNorm++."""
    names = {}
    for key in network.state_dict():
        module, leaf = key.rsplit(".", 1)
        path = module.removeprefix("body.").split(".")
        name = _module(path, network.get_submodule("body"))
        names[key] = tuple(f"{name}.{part}" for part in (norm if leaf == "table" else [leaf]))
    return names


def _module(path: list[str], body: nn.Module) -> str:
    depth = len(list(body.get_submodule("stages").children()))
    match path:
        case ["begin" | "end" as end]:
            return f"{end}_conv"
        case ["stages", stage, index, *part]:
            block = body.get_submodule(f"stages.{stage}.{index}")
            # Where the grid is halved, their convolution sits inside a pooling module.
            pooled = ".conv" if block.halves and part[-1] != "norm" and part[0] != "first" else ""
            return f"res{STAGES[depth][int(stage)]}.{index}.{RESIDUAL[tuple(part)]}{pooled}"
        case ["refines", step, *part]:
            return f"refine{REFINES[depth][int(step)]}.{_refine(part)}"
        case _:
            return "normalizer"


def _refine(path: list[str]) -> str:
    match path:
        case ["adapt", index, "blocks", block, unit, part]:
            return f"adapt_convs.{index}.{int(block) + 1}_{int(unit) + 1}_{part}"
        case ["out", "blocks", block, unit, part]:
            return f"output_convs.{int(block) + 1}_{int(unit) + 1}_{part}"
        case ["fuse", "units", index, part]:
            return f"msf.{part}s.{index}"
        case ["context", kind, index]:
            return f"crp.{kind}.{index}"
        case _:
            raise KeyError(".".join(path))


Parts = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class UNetNames:
    """How a program calls the parts of a U-Net.

    `down` and `up` are formats of a resolution's number, which `mirrored` counts from the lowest
    resolution on the way up; `block` and `attention` of a number within it. `middle` holds the two
    blocks and their attentions. `block_parts` and `attention_parts` give their names for the ends
    of our keys, several where ours joins their queries, keys and values.
    """

    program: str
    time: tuple[str, str]
    down: str
    up: str
    block: str
    attention: str
    middle: dict[str, tuple[str, str]]
    block_parts: Parts
    attention_parts: Parts
    downsample: str
    upsample: str
    out: dict[str, str]
    label: str | None = None
    mirrored: bool = False

    def __call__(self, keys: Iterable[str]) -> Parts:
        """Their names for each of our keys; UsageError for one that they have no part for."""
        keys = list(keys)
        last = max(int(key.split(".")[1]) for key in keys if key.startswith("ascents."))
        return {key: self._names(key, last if self.mirrored else None) for key in keys}

    def _names(self, key: str, last: int | None) -> tuple[str, ...]:
        stem, leaf = key.rsplit(".", 1)
        names: tuple[str, ...]
        match stem.split("."):
            case ["condition", "level", index]:
                names = (self.time[int(index) // 2],)
            case ["condition", "label", "table"] if self.label:
                names = (self.label,)
            case ["descents", "0", "enter"]:
                names = ("conv_in",)
            case ["descents", level, "enter", "conv"]:
                names = (f"{self.down.format(int(level) - 1)}.{self.downsample}",)
            case ["descents", level, "blocks", index, *part]:
                names = self._parts(self.down.format(level), index, part)
            case ["middle", which, *part]:
                names = self._of(*self.middle[which], part)
            case ["ascents", level, "blocks", index, *part]:
                names = self._parts(self._up(level, last), index, part)
            case ["ascents", "0", "leave", index]:
                names = (self.out[index],)
            case ["ascents", level, "leave", "conv"]:
                names = (f"{self._up(level, last)}.{self.upsample}",)
            case _:
                raise UsageError(f"{key} has no counterpart in {self.program}")
        return tuple(f"{name}.{leaf}" for name in names)

    def _up(self, level: str, last: int | None) -> str:
        return self.up.format(level if last is None else last - int(level))

    def _parts(self, where: str, index: str, part: list[str]) -> tuple[str, ...]:
        block, attention = self.block.format(index), self.attention.format(index)
        return self._of(f"{where}.{block}", f"{where}.{attention}", part)

    def _of(self, block: str, attention: str, part: list[str]) -> tuple[str, ...]:
        name = ".".join(part)
        if name in self.block_parts:
            return tuple(f"{block}.{theirs}" for theirs in self.block_parts[name])
        return tuple(f"{attention}.{theirs}" for theirs in self.attention_parts[name])


BLOCK: Parts = {  # what both programs call the same
    "norm": ("norm1",),
    "conv": ("conv1",),
    "emb_norm.norm": ("norm2",),
    "last": ("conv2",),
}

# DDIM's code, and pytorch_diffusion's.
ddim_names = UNetNames(
    program="DDIM's networks",
    time=("temb.dense.0", "temb.dense.1"),
    down="down.{}",
    up="up.{}",
    block="block.{}",
    attention="attn.{}",
    middle={"first": ("mid.block_1", "mid.attn_1"), "second": ("mid.block_2", "mid.attn_1")},
    block_parts=BLOCK | {"emb_norm.emb_proj": ("temb_proj",), "shortcut": ("nin_shortcut",)},
    attention_parts={
        "attend.norm": ("norm",),
        "attend.qkv": ("q", "k", "v"),
        "attend.out": ("proj_out",),
    },
    downsample="downsample.conv",
    upsample="upsample.conv",
    out={"0": "norm_out", "2": "conv_out"},
)

# diffusers.UNet2DModel.
diffusers_names = UNetNames(
    program="diffusers.UNet2DModel",
    time=("time_embedding.linear_1", "time_embedding.linear_2"),
    label="class_embedding",
    down="down_blocks.{}",
    up="up_blocks.{}",
    mirrored=True,
    block="resnets.{}",
    attention="attentions.{}",
    middle={
        "first": ("mid_block.resnets.0", "mid_block.attentions.0"),
        "second": ("mid_block.resnets.1", "mid_block.attentions.1"),
    },
    block_parts=BLOCK | {"emb_norm.emb_proj": ("time_emb_proj",), "shortcut": ("conv_shortcut",)},
    attention_parts={
        "attend.norm": ("group_norm",),
        "attend.qkv": ("to_q", "to_k", "to_v"),
        "attend.out": ("to_out.0",),
    },
    downsample="downsamplers.0.conv",
    upsample="upsamplers.0.conv",
    out={"0": "conv_norm_out", "2": "conv_out"},
)
