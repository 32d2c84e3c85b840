"""Weights of facebookresearch/DiT: its recipe, and its parameters as ours."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.interop.files import Release, Settings, Shape, State, read_weights, unwrapped
from diffgen.interop.recipes import ddpm_recipe
from diffgen.network.dit import DiT
from diffgen.network.tokens import positions

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of the paper's widths
# Patterns of our keys, and what stands for them in theirs.
NAMES = {
    r"^patches\.": "x_embedder.proj.",
    r"^condition\.level\.": "t_embedder.mlp.",
    r"^condition\.label\.table\.": "y_embedder.embedding_table.",
    r"^(blocks\.\d+)\.qkv\.": r"\1.attn.qkv.",
    r"^(blocks\.\d+)\.out\.": r"\1.attn.proj.",
    r"^(blocks\.\d+)\.mlp\.0\.": r"\1.mlp.fc1.",
    r"^(blocks\.\d+)\.mlp\.2\.": r"\1.mlp.fc2.",
    r"^head\.pixels\.": "final_layer.linear.",
    r"^head\.": "final_layer.",
    r"\bmodulation\.": "adaLN_modulation.1.",
}


def read_dit(path: Path, size: int | None, settings: Settings) -> Release:
    """The state of a DiT, or what its training saves: {model, ema, ...}."""
    data = read_weights(path)
    average = data.get("ema") if isinstance(data, dict) else None
    state = data.get("model", average or data) if isinstance(data, dict) else {}
    for part in (state, average or {}):
        if not isinstance(part, dict) or not all(isinstance(v, Tensor) for v in part.values()):
            raise UsageError(f"{path} holds no weights of a DiT")
    state = unwrapped(state)
    if "x_embedder.proj.weight" not in state or "pos_embed" not in state:
        raise UsageError(f"{path} holds no weights of a DiT")
    network, shape, learned = _network(state, settings, path)
    rows = len(state["y_embedder.embedding_table.weight"])
    classes = settings.get("num_classes", rows - 1)
    recipe = ddpm_recipe(
        {"name": "linear", "levels": 1000},
        network,
        variance="learned" if learned else "fixed",
        label_dropout=0.1,
    )
    return Release(
        recipe,
        shape,
        state,
        lambda network: dit_names(network.state_dict()),
        average=dict(average or {}) if average and "model" in data else {},
        rewrite=dit_state,
        classes=classes,
        assumed=(
            "the schedule and prediction of its training",
            f"{network['heads']} heads",
            f"{classes} classes, the last row of the table of labels being no label",
            *(("4 channels of an autoencoder, which diffgen does not have",) * (shape[0] == 4)),
        ),
    )


def dit_names(keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """DiT's name for each key of our transformer."""
    names = {}
    for key in keys:
        name = key
        for ours, theirs in NAMES.items():
            name = re.sub(ours, theirs, name)
        names[key] = (name,)
    return names


def dit_state(state: State, network: DiT) -> State:
    """Their state without the places of patches, which are not learned; UsageError for others."""
    state = unwrapped(state)
    places = state.pop("pos_embed", None)
    ours = positions(network.size // network.patches.kernel_size[0], network.patches.out_channels)
    if places is not None and not torch.allclose(places.reshape(ours.shape), ours, atol=1e-4):
        raise UsageError("the places of its patches are not the sines and cosines of a DiT")
    return state


def _network(state: State, settings: Settings, path: Path) -> tuple[dict[str, Any], Shape, bool]:
    width, channels, patch, _ = state["x_embedder.proj.weight"].shape
    side = round(state["pos_embed"].shape[1] ** 0.5) * patch
    heads = settings.get("num_heads", HEADS.get(width))
    if heads is None:
        raise UsageError(
            f"{path} does not tell its number of heads: write num_heads: N into a config.yml "
            "beside it"
        )
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    hidden = len(state["blocks.0.mlp.fc1.weight"])
    learned = len(state["final_layer.linear.weight"]) == 2 * channels * patch**2
    network = {"name": "dit", "patch": patch, "width": width, "depth": depth, "heads": heads}
    return network | {"mlp": hidden / width}, (channels, side, side), learned
