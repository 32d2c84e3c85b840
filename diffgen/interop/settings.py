"""The settings that a released file comes with, held to the rules of its program."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from diffgen.errors import UsageError
from diffgen.interop.config_files import Config, read_config, read_unet
from diffgen.interop.rules import (
    DEFAULTS,
    FLAGS,
    FLOW,
    FLOW_LEVELS,
    MOST,
    NULL,
    PICKLED,
    RULES,
    SCHEDULERS,
    UNET,
    Rule,
)


def read_settings(kind: str, path: Path, named: Path | None = None) -> Config:
    """The configuration of a released file; UsageError that names all that is not honoured."""
    read: Callable[[Path, Path | None], Config]
    read = read_unet if kind == "ddpm-diffusers" else read_config
    if kind in PICKLED and named:
        raise UsageError(f"--config {named}: a file of {kind} says its settings itself")
    config = {} if kind in PICKLED else read(path, named)
    config = {"flags": config} if kind in FLAGS and config else config
    rules, wrong = RULES[kind], []
    sections = sorted({key.split(".")[0] for key in rules})
    if named and not config.keys() & sections:
        wanted = "no settings" if kind in FLAGS else f"none of {', '.join(sections)}"
        raise UsageError(f"--config {named}: it holds {wanted}")
    for section in sections:
        settings = config.get(section, {})
        if not isinstance(settings, dict):
            wrong.append(f"{section}={_short(settings)} (a mapping)")
            continue
        for key, value in settings.items():
            if answer := _complaint(f"{section}.{key}", value, rules):
                wrong.append(f"{section}.{key}={_short(value)} ({answer})")
    if kind == "ddpm-diffusers" and not wrong:
        config["unet"] = UNET | config["unet"]
        wrong = _together(config["unet"], config["scheduler"])
    if wrong:
        raise UsageError(f"no import of {path}: its settings are {', '.join(wrong)}")
    return config


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) < 60 else f"{text[:50]}..."


def setting(config: Mapping[str, Any], key: str) -> Any:
    """What a configuration says under `section.name`, else what is assumed, else None."""
    section, _, name = key.partition(".")
    return config.get(section, {}).get(name, DEFAULTS.get(key))


def assumed(kind: str, config: Config) -> list[str]:
    """What is taken though no file says it, as key=value; sigmas of NCSNv2 are in its weights."""
    silent = [key for key in DEFAULTS if key in RULES[kind] and setting({}, key) is not None]
    return [
        f"{key}={DEFAULTS[key]}"
        for key in silent
        if key.split(".")[1] not in config.get(key.split(".")[0], {})
        and not (kind == "ncsnv2" and "sigma" in key)
        and config.get("scheduler", {}).get("_class_name") != FLOW
    ]


def _complaint(key: str, value: Any, rules: Mapping[str, Rule]) -> str | None:
    """What a setting must be, None where it is."""
    if key == "scheduler._class_name":
        known = value == FLOW or str(value).removesuffix("Scheduler") in SCHEDULERS
        return None if known else "only schedulers of betas, and of flow matching"
    if key.split(".")[1].startswith("_") or (key.startswith("scheduler.") and key not in rules):
        return None  # notes of diffusers, and how its schedulers draw
    if key not in rules:
        return "not known here"
    rule = rules[key]
    if rule is None:
        return None
    if isinstance(value, int) and abs(value) > MOST:
        return f"{MOST:,} are the most"
    kinds = rule if isinstance(rule, tuple) else (rule,)
    if all(isinstance(kind, type) for kind in kinds):
        numeric = float in kinds and isinstance(value, int) and not isinstance(value, bool)
        right = numeric or type(value) in kinds
        return (
            None if right else " or ".join("null" if k is NoneType else k.__name__ for k in kinds)
        )
    return None if value in kinds else f"only {' or '.join(map(str, kinds))}"


def _together(unet: Config, scheduler: Config) -> list[str]:
    """What of a UNet2DModel and its scheduler does not go together in our denoisers."""
    wrong, widths, downs = [], unet["block_out_channels"], unet["down_block_types"]
    order, groups = (unet["flip_sin_to_cos"], unet["freq_shift"]), unet["norm_num_groups"]
    size = unet["sample_size"]
    if order not in ((False, 1), (True, 0)):
        stated = f"flip_sin_to_cos={order[0]} with freq_shift={order[1]}"
        wrong.append(f"{stated} (only false with 1, true with 0)")
    kinds = {"DownBlock2D": "UpBlock2D", "AttnDownBlock2D": "AttnUpBlock2D"}
    if not widths or len(downs) != len(widths) or not all(down in kinds for down in downs):
        wrong.append(f"down_block_types={downs} (only {' and '.join(kinds)}, one for each width)")
    elif unet["up_block_types"] != [kinds[down] for down in reversed(downs)]:
        wrong.append(f"up_block_types={unet['up_block_types']} (not those on the way down)")
    if not all(type(width) is int and width > 0 and width % widths[0] == 0 for width in widths):
        wrong.append(f"block_out_channels={widths} (only multiples of the first)")
    elif groups < 1 or any(width % groups for width in widths):
        wrong.append(f"norm_num_groups={groups} on {widths} channels (it must divide them)")
    scaled = unet["resnet_time_scale_shift"] == "scale_shift"
    if unet["attn_norm_num_groups"] not in ([groups] if scaled else [None, groups]):
        wrong.append(f"attn_norm_num_groups={unet['attn_norm_num_groups']} (only {groups})")
    if unet.get(NULL) not in (None, (unet["num_class_embeds"] or 0) - 1):
        wrong.append(f"{NULL}={unet[NULL]} (only the last of the labels)")
    learned = scheduler.get("variance_type") == "learned_range"
    if unet["out_channels"] != (2 if learned else 1) * unet["in_channels"]:
        image = "those of the image"
        right = f"twice {image}, of a learned variance" if learned else image
        wrong.append(f"out_channels={unet['out_channels']} (not {right})")
    if isinstance(size, list) and (
        len(size) != 2 or size[0] != size[1] or type(size[0]) is not int
    ):
        wrong.append(f"sample_size={size} (only squares)")
    return [f"unet.{each}" for each in wrong] + _of_flow(scheduler)


def _of_flow(scheduler: Config) -> list[str]:
    """What of a scheduler of flow matching tells the network other times than ours."""
    if scheduler.get("_class_name") != FLOW:
        return []
    usual = {"num_train_timesteps": FLOW_LEVELS, "shift": 1, "shift_terminal": None}
    usual |= {"use_dynamic_shifting": False, "invert_sigmas": False}
    found = {"num_train_timesteps": 1000, **scheduler}
    return [
        f"scheduler.{key}={_short(found[key])} with {FLOW} (only {value})"
        for key, value in usual.items()
        if found.get(key, value) != value
    ]
