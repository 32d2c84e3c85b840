"""Weights of facebookresearch/DiT as a recipe; its names are in parameter_names."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.interop.files import State, read_weights, unwrapped
from diffgen.interop.parameter_names import dit_names
from diffgen.interop.release import Release, Settings, recipe_of
from diffgen.network.dit import DiT
from diffgen.network.tokens import positions

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of the paper's widths


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
    recipe = recipe_of(
        "ddpm",
        schedule={"name": "linear", "levels": 1000},
        prediction={"name": "eps"},
        noise_input="level",
        network=network,
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


def dit_state(state: State, network: DiT) -> State:
    """Their state without the places of patches, which are not learned; UsageError for others."""
    state = unwrapped(state)
    places = state.pop("pos_embed", None)
    ours = positions(network.size // network.patches.kernel_size[0], network.patches.out_channels)
    if places is not None and not torch.allclose(places.reshape(ours.shape), ours, atol=1e-4):
        raise UsageError("the places of its patches are not the sines and cosines of a DiT")
    return state


def _network(
    state: State, settings: Settings, path: Path
) -> tuple[dict[str, Any], tuple[int, int, int], bool]:
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
