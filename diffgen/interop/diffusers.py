"""A UNet2DModel of diffusers: its saved files, their recipe, and its parameters as ours and back.

The counterpart of `UNet(**settings)` is UNet2DModel in the configuration of
google/ddpm-cifar10-32: freq_shift 1, no flip of sine and cosine, downsample_padding 0, norm_eps
1e-6. Embedding "scale_shift" is its resnet_time_scale_shift, which needs attn_norm_num_groups too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffgen.errors import UsageError
from diffgen.interop.files import Released, State, adopt, read_json, read_weights, release
from diffgen.interop.parameter_names import diffusers_names
from diffgen.interop.recipes import Recipe, Shape, ddpm_recipe
from diffgen.network.unet import UNet

OLD = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
SCHEDULES = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
# What our U-Net is, in the words of their configuration.
SAME = {
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "time_embedding_type": "positional",
}
# The same, where a configuration may leave it out.
OPTIONAL = {
    "add_attention": True,
    "attn_norm_num_groups": None,
    "class_embed_type": None,
    "downsample_type": "conv",
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "upsample_type": "conv",
}


def read_diffusers(path: Path) -> tuple[Released, dict[str, Any]]:
    """Weights and {"unet": config.json, "scheduler": its config, {} where there is none}."""
    folder = path if path.is_dir() else path.parent
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    found = [file for file in (unet / name for name in WEIGHTS) if file.is_file()]
    if path.is_dir() and not found:
        raise UsageError(f"no {WEIGHTS[0]} in {unet}")
    state = modern(read_weights(found[0] if path.is_dir() else path))
    places = (folder, folder / "scheduler", folder.parent / "scheduler")
    scheduler = [place / "scheduler_config.json" for place in places]
    config = {"unet": read_json(unet / "config.json"), "scheduler": {}}
    config["scheduler"] |= next((read_json(file) for file in scheduler if file.is_file()), {})
    return Released(state, {}, 0), config


def diffusers_recipe(
    state: State, config: dict[str, Any], size: int | None
) -> tuple[Recipe, Shape]:
    """The recipe of a configuration that our U-Net can be; UsageError for any other."""
    unet, scheduler = config["unet"], config["scheduler"]
    found = OPTIONAL | unet
    for key, value in (SAME | OPTIONAL).items():
        if found.get(key) != value:
            raise UsageError(
                f"no import of a UNet2DModel with {key}={found.get(key)}, only {value}"
            )
    _check_groups(unet["norm_num_groups"], unet["block_out_channels"])
    size = int(size or unet["sample_size"])
    recipe = ddpm_recipe(_schedule(scheduler), _network(unet, size), {})
    prediction = scheduler.get("prediction_type", "epsilon")
    recipe["prediction"] = {"name": PREDICTIONS[prediction]}
    return recipe, (int(unet["in_channels"]), size, size)


def _check_groups(groups: int | None, widths: list[int]) -> None:
    """UsageError where our norms would have other groups, which no shape of a weight betrays."""
    if not groups or any(width % groups or width < 4 * groups for width in widths):
        raise UsageError(
            f"no import of a UNet2DModel with norm_num_groups={groups} on {widths} channels, "
            "only with groups that divide each width into at least four channels"
        )


def _network(unet: dict[str, Any], size: int) -> Recipe:
    widths, downs = unet["block_out_channels"], unet["down_block_types"]
    return {
        "name": "unet",
        "width": widths[0],
        "multipliers": [width // widths[0] for width in widths],
        "blocks": unet["layers_per_block"],
        "attention": [size >> i for i, kind in enumerate(downs) if kind == "AttnDownBlock2D"],
        "head_width": unet.get("attention_head_dim"),
        "dropout": unet.get("dropout", 0.0),
        "groups": unet["norm_num_groups"],
    }


def _schedule(scheduler: dict[str, Any]) -> Recipe:
    stated = scheduler.get("beta_schedule", "linear")
    if stated not in SCHEDULES:
        raise UsageError(f"no import of beta_schedule={stated}, only of {', '.join(SCHEDULES)}")
    schedule = {"name": SCHEDULES[stated], "levels": scheduler.get("num_train_timesteps", 1000)}
    if stated == "linear":
        ends = scheduler.get("beta_start", 1e-4), scheduler.get("beta_end", 0.02)
        schedule |= {"beta_min": ends[0], "beta_max": ends[1], "rescale": False}
    return schedule


def to_diffusers(state: Mapping[str, Tensor]) -> State:
    """The state of our U-Net as one that UNet2DModel.load_state_dict accepts."""
    return release(state, diffusers_names(state))


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
