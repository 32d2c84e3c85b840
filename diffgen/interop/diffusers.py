"""A UNet2DModel of diffusers: its saved files, their recipe, and its parameters as ours and back.

The counterpart of `UNet(**settings)` is UNet2DModel in the configuration of
google/ddpm-cifar10-32: freq_shift 1, no flip of sine and cosine, downsample_padding 0, norm_eps
1e-6; other configurations have settings of ours (see `_network`). Embedding "scale_shift" is its
resnet_time_scale_shift, which needs attn_norm_num_groups too.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.interop.files import Recipe, Release, Settings, State, adopt, read_state, to_theirs
from diffgen.interop.parameter_names import diffusers_names
from diffgen.interop.recipes import ddpm_recipe, size_of
from diffgen.interop.rules import FLOW, NULL
from diffgen.interop.settings import setting
from diffgen.network.unet import UNet

OLD = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
SCHEDULES = {
    "linear": "linear",
    "scaled_linear": "quadratic",
    "sigmoid": "sigmoid_beta",
    "squaredcos_cap_v2": "cosine",
}
BETAS = (
    *("beta_schedule", "beta_start", "beta_end"),
    *("num_train_timesteps", "rescale_betas_zero_snr"),
)
LABELS = "class_embedding.weight"


def read_diffusers(path: Path, size: int | None, config: Settings) -> Release:
    """A UNet2DModel in a folder or file, of a configuration that rules.py let through.

    Where it has labels and none of them is for no label, a row is added for that, which has no
    meaning to the network.
    """
    unet = config["unet"]
    state = _weights(path)
    if LABELS in state and state[LABELS].ndim == 2 and NULL not in unet:
        state[LABELS] = torch.nn.functional.pad(state[LABELS], (0, 0, 0, 1))
    stated = unet["sample_size"]
    size = size_of(stated[0] if isinstance(stated, list) else stated, size)
    clip = setting(config, "scheduler.clip_sample")
    recipe = ddpm_recipe(_schedule(config), _network(unet, size), clip=clip)
    if unet["num_class_embeds"]:
        recipe["model"]["label_dropout"] = 0.1 if NULL in unet else 0.0
    if setting(config, "scheduler.variance_type") == "learned_range":
        recipe["model"]["variance"] = "learned"
    recipe["prediction"] = {"name": PREDICTIONS[setting(config, "scheduler.prediction_type")]}
    if _flows(config):
        recipe["model"] |= {"name": "flow", "clip": False}
        recipe["prediction"] = {"name": "flow"}
    return Release(
        recipe,
        (unet["in_channels"], size, size),
        state,
        lambda network: diffusers_names(network.state_dict()),
        classes=(unet["num_class_embeds"] or 0) - (NULL in unet),
    )


def _weights(path: Path) -> State:
    unet = path / "unet" if (path / "unet").is_dir() else path
    found = [file for file in (unet / name for name in WEIGHTS) if file.is_file()]
    if path.is_dir() and not found:
        raise UsageError(f"no {WEIGHTS[0]} in {unet}")
    return modern(read_state(found[0] if path.is_dir() else path))


def _flows(config: Settings) -> bool:
    return config["scheduler"].get("_class_name") == FLOW


def _network(unet: Settings, size: int) -> Recipe:
    widths, downs = unet["block_out_channels"], unet["down_block_types"]
    return {
        "name": "unet",
        "width": widths[0],
        "multipliers": [width // widths[0] for width in widths],
        "blocks": unet["layers_per_block"],
        "attention": [size >> i for i, kind in enumerate(downs) if kind == "AttnDownBlock2D"],
        "head_width": unet["attention_head_dim"],
        "dropout": float(unet["dropout"]),
        "groups": unet["norm_num_groups"],
        "exact_groups": True,
        "embedding": "add" if unet["resnet_time_scale_shift"] == "default" else "scale_shift",
        "downsample": "centered" if unet["downsample_padding"] else "strided",
        "frequencies": "cosine" if unet["flip_sin_to_cos"] else "sine",
        "norm_eps": unet["norm_eps"],
    }


def _schedule(config: Settings) -> Recipe:
    if _flows(config):
        return {"name": "flow"}
    name, low, high, levels, zero = (setting(config, f"scheduler.{key}") for key in BETAS)
    schedule = {"name": SCHEDULES[name], "levels": levels, "zero_snr": zero}
    if name == "squaredcos_cap_v2":
        return schedule
    return schedule | {"beta_min": float(low), "beta_max": float(high), "rescale": False}


def to_diffusers(state: Mapping[str, Tensor]) -> State:
    """The state of our U-Net as one that UNet2DModel.load_state_dict accepts."""
    return to_theirs(state, diffusers_names(state))


def from_diffusers(state: Mapping[str, Tensor], network: UNet) -> State:
    """The state of a UNet2DModel as one that `network`, its counterpart, accepts.

    Reads attention under its old names (query, proj_attn), too. UsageError when it does not fit.
    """
    return adopt(modern(state), diffusers_names(network.state_dict()), network)


def modern(state: Mapping[str, Tensor]) -> State:
    """The state with attention under the names of today's diffusers."""
    for old, new in OLD.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    return dict(state)
