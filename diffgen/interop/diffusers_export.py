"""A denoiser as the configurations and weights of a UNet2DModel and of its scheduler.

What diffusers has no counterpart of is named, never left out: see `reasons`.
"""

import json
from collections.abc import Iterator
from typing import Any

from safetensors.torch import save
from torch import nn

from diffgen.config.recipe import DenoiserRecipe, Shape
from diffgen.denoiser.base import Preconditioned
from diffgen.errors import UsageError
from diffgen.interop.diffusers import LABELS, PREDICTIONS, SCHEDULES, WEIGHTS, to_diffusers
from diffgen.interop.files import State
from diffgen.interop.rules import FLOW, FLOW_LEVELS, NULL
from diffgen.network.attention import SelfAttention
from diffgen.network.embedding import cosines
from diffgen.network.unet import UNet
from diffgen.schedule.constant import Constant
from diffgen.schedule.cosine import Cosine
from diffgen.schedule.discrete import Discrete, Ramp
from diffgen.schedule.flow import Flow

OUTPUTS = {ours: theirs for theirs, ours in PREDICTIONS.items()}
BETAS = {ours: theirs for theirs, ours in SCHEDULES.items()}
DOWNSAMPLES = ("strided", "centered")
AUGMENT = "condition.augment.weight"  # zero numbers when images are made


def reasons(recipe: DenoiserRecipe, network: nn.Module, schedule: Any) -> list[str]:
    """All that keeps a denoiser from being a UNet2DModel with a scheduler, as `key=value`."""
    model = recipe.model
    found = [] if model.range == "symmetric" else [f"model.range={model.range} (only symmetric)"]
    found += _of_schedule(recipe, schedule)
    known = {"level": True, "thousandths": schedule.levels in (None, 1000)}
    if not known.get(model.noise_input):
        found.append(f"model.noise_input={model.noise_input} (only level)")
    if type(network) is not UNet:
        return [*found, f"network={recipe.network.name} (only unet)"]
    return [*found, *_of_network(recipe.network.settings, network)]


def _of_schedule(recipe: DenoiserRecipe, schedule: Any) -> Iterator[str]:
    prediction, name = recipe.prediction.name, recipe.schedule.name
    if isinstance(schedule, Flow):
        if schedule.shift != 1:
            yield f"schedule.shift={schedule.shift:g} (only 1)"
        if prediction != "flow":
            yield f"prediction={prediction} with schedule=flow (only flow)"
        if recipe.model.variance == "learned":
            yield "model.variance=learned with schedule=flow"
        return
    if not isinstance(schedule, Discrete):
        yield f"schedule={name} (only those of betas, and flow)"
    if prediction not in OUTPUTS:
        yield f"prediction={prediction} (only {', '.join(OUTPUTS)})"


def _of_network(settings: Any, network: UNet) -> Iterator[str]:
    for key, allowed in (("embedding", ("add", "scale_shift")), ("downsample", DOWNSAMPLES)):
        if (value := settings.get(key, allowed[0])) not in allowed:
            yield f"network.{key}={value} (only {' or '.join(allowed)})"
    if network.condition.level is None:
        yield "a network without a noise input"
    if settings.get("multipliers", (1,))[0] != 1:
        yield f"network.multipliers={list(settings['multipliers'])} (the first one must be 1)"
    if len(groups := _groups(network)) > 1:
        counts = " and ".join(map(str, groups))
        yield (
            f"norms of {counts} groups (only of one number: network.exact_groups=true makes all "
            "network.groups)"
        )
    if len(widths := _head_widths(network)) > 1 and _heads(network) != {1}:
        counts = " and ".join(map(str, sorted(widths)))
        yield f"heads of {counts} channels (only of one width: network.head_width sets it)"


def _groups(network: nn.Module) -> list[int]:
    return sorted({m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)})


def _attentions(network: nn.Module) -> list[SelfAttention]:
    return [module for module in network.modules() if isinstance(module, SelfAttention)]


def _heads(network: nn.Module) -> set[int]:
    return {attention.heads for attention in _attentions(network)}


def _head_widths(network: nn.Module) -> set[int]:
    return {a.qkv.in_features // a.heads for a in _attentions(network)}


def unet_config(
    recipe: DenoiserRecipe, network: UNet, shape: Shape, labels: int | None
) -> dict[str, Any]:
    """config.json of the UNet2DModel for images of `shape` (C, H, W) with rows for `labels`."""
    settings, groups = recipe.network.settings, _groups(network)[0]
    scaled = settings.get("embedding") == "scale_shift"
    attends = [len(_attentions(descent)) > 0 for descent in network.descents]
    multipliers = settings.get("multipliers", (1, 2, 2, 2))
    widths = [settings.get("width", 128) * multiplier for multiplier in multipliers]
    one = _heads(network) == {1}
    sines = network.condition.frequencies is not cosines
    return {
        "_class_name": "UNet2DModel",
        "act_fn": "silu",
        "attention_head_dim": None if one else _head_widths(network).pop(),
        "attn_norm_num_groups": groups if scaled else None,
        "block_out_channels": widths,
        "center_input_sample": False,
        "class_embed_type": None,
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "downsample_padding": 0 if settings.get("downsample", "strided") == "strided" else 1,
        "dropout": float(settings.get("dropout", 0.0)),
        "flip_sin_to_cos": not sines,
        "freq_shift": 1 if sines else 0,
        "in_channels": shape[0],
        "layers_per_block": settings.get("blocks", 2),
        "norm_eps": settings.get("norm_eps", 1e-6),
        "norm_num_groups": groups,
        "num_class_embeds": labels,
        "out_channels": network.out_channels,
        "resnet_time_scale_shift": "scale_shift" if scaled else "default",
        "sample_size": shape[1],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
    }


def scheduler_config(recipe: DenoiserRecipe, schedule: Any, large: bool) -> dict[str, Any]:
    """scheduler_config.json; `large`: its own sampler draws with the larger variance."""
    if isinstance(schedule, Flow):
        return {"_class_name": FLOW, "num_train_timesteps": FLOW_LEVELS, "shift": 1.0}
    learned = recipe.model.variance == "learned"
    return {
        "_class_name": "DDPMScheduler",
        **_betas(schedule, BETAS.get(recipe.schedule.name)),
        "clip_sample": recipe.model.clip,
        "clip_sample_range": 1.0,
        "num_train_timesteps": schedule.levels,
        "prediction_type": OUTPUTS[recipe.prediction.name],
        "rescale_betas_zero_snr": schedule.zero_snr,
        "timestep_spacing": "trailing",
        "variance_type": "learned_range" if learned else "fixed_large" if large else "fixed_small",
    }


def _betas(schedule: Discrete, known: str | None) -> dict[str, Any]:
    """A table that diffusers knows by name, else the table itself."""
    if isinstance(schedule, Constant):
        known, ends = "linear", 2 * (float(schedule.betas()[0]),)
    elif isinstance(schedule, Ramp):
        ends = schedule.ends
    else:
        ends = ()
    paper = Cosine(levels=schedule.levels, zero_snr=schedule.zero_snr)
    if not known or not (ends or schedule == paper):
        return {"trained_betas": schedule.betas().tolist()}
    return {"beta_schedule": known, **dict(zip(("beta_start", "beta_end"), ends, strict=False))}


def labels_of(recipe: DenoiserRecipe, classes: int) -> int | None:
    """The rows of labels: one more than classes where the null label was learned, too."""
    return classes + (recipe.model.label_dropout > 0) if classes else None


def diffusers_files(
    denoiser: Preconditioned, recipe: DenoiserRecipe, shape: Shape, classes: int, large: bool
) -> dict[str, bytes]:
    """The files of a DDPMPipeline's folder; UsageError with all that keeps it from being one."""
    network, schedule = denoiser.network, denoiser.schedule
    if wrong := reasons(recipe, network, schedule):
        raise UsageError(
            f"diffusers has no counterpart of {', '.join(wrong)}",
            "take `diffgen export safetensors` or `diffgen export torch`",
        )
    assert isinstance(network, UNet)
    labels = labels_of(recipe, classes)
    scheduler = scheduler_config(recipe, schedule, large)
    configs = {
        "model_index.json": {
            "_class_name": "DDPMPipeline",
            "scheduler": ["diffusers", scheduler["_class_name"]],
            "unet": ["diffusers", "UNet2DModel"],
        },
        "scheduler/scheduler_config.json": scheduler,
        "unet/config.json": unet_config(recipe, network, shape, labels)
        | ({NULL: classes} if labels and labels > classes else {}),
    }
    weights = save(_weights(network.state_dict(), labels), {"format": "pt"})
    files = {name: json.dumps(config, indent=2).encode() for name, config in configs.items()}
    return files | {f"unet/{WEIGHTS[0]}": weights}


def _weights(state: State, labels: int | None) -> State:
    """The state of a UNet2DModel with that many rows of labels."""
    theirs = to_diffusers({key: value for key, value in state.items() if key != AUGMENT})
    if labels is not None:
        theirs[LABELS] = theirs[LABELS][:labels]
    return {key: value.contiguous() for key, value in theirs.items()}
