"""What weights of openai/guided-diffusion and openai/improved-diffusion tell of their network."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffgen.errors import UsageError
from diffgen.interop.files import State

# The sizes of images of released networks, by their multipliers.
SIZES = {
    (1, 2, 2, 2): 32,
    (1, 2, 3, 4): 64,
    (1, 1, 2, 3, 4): 128,
    (1, 1, 2, 2, 4, 4): 256,
    (0.5, 1, 1, 2, 2, 4, 4): 512,
}
BLOCK = re.compile(r"input_blocks\.(\d+)\.0\.in_layers\.2\.weight$")


def shapes_of(state: State, path: Path, blocks: int | None = None) -> dict[str, Any]:
    """What the weights themselves tell of the network; `blocks` at each level, if known."""
    width = state["time_embed.0.weight"].shape[1]
    found = {int(m[1]): value for key, value in state.items() if (m := BLOCK.match(key))}
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


def told(size: int | None, path: Path) -> int:
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
