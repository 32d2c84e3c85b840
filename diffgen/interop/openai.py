"""Weights of openai/guided-diffusion (ADM) and openai/improved-diffusion, as recipes.

Their files are bare weights. What these do not tell stands in the flags of their programs: a
config.yml beside the file may hold flags by their names, and else those of the released network
of these shapes are assumed, and said.
"""

from functools import partial
from pathlib import Path
from typing import Any

from diffgen.errors import UsageError
from diffgen.interop.adm import SIZES, adm_names, adm_state, known_size, network_of, shapes_of
from diffgen.interop.adm_classifier import read_classifier
from diffgen.interop.files import Release, Settings, State, read_weights, unwrapped
from diffgen.interop.recipes import ddpm_recipe

# Flags that no weight betrays, as the programs have them, and as released networks were made.
ADM = {
    "num_heads": 4,
    "num_head_channels": 64,
    "use_new_attention_order": False,
    "noise_schedule": "linear",
    "diffusion_steps": 1000,
    "rescale_timesteps": False,
    "dropout": 0.0,
}
IMPROVED = ADM | {
    "num_head_channels": -1,
    "noise_schedule": "cosine",
    "diffusion_steps": 4000,
    "rescale_timesteps": True,
}
ADM_64 = {"use_new_attention_order": True, "noise_schedule": "cosine", "dropout": 0.1}
ADM_128 = {"num_head_channels": -1}  # 4 heads
IMPROVED_LSUN = {
    "num_heads": 1,
    "noise_schedule": "linear",
    "diffusion_steps": 1000,
    "rescale_timesteps": False,
}


def read_adm(path: Path, size: int | None, settings: Settings) -> Release:
    """A network of guided-diffusion, or a classifier of noisy images, which lacks the way up."""
    state = _weights(path)
    if not _upward(state):
        return read_classifier(state, path, size, settings)
    shapes = shapes_of(state, path)
    released = {(1, 2, 3, 4): ADM_64, (1, 1, 2, 3, 4): ADM_128}
    own = (
        shapes["downsample"] != "residual"
    )  # as no released network, but as its program's default
    known = ADM | (ADM_128 if own else released.get(tuple(shapes["multipliers"]), {}))
    return _release(state, shapes, known, path, size, settings)


def read_improved(path: Path, size: int | None, settings: Settings) -> Release:
    state = _weights(path)
    if not _upward(state):
        raise UsageError(f"no import of {path}: it is a classifier, take `diffgen import adm`")
    shapes = shapes_of(state, path)
    if shapes["downsample"] == "residual":
        raise UsageError(
            f"no import of {path}: it is of guided-diffusion, take `diffgen import adm`"
        )
    lsun = shapes["multipliers"] == [1, 1, 2, 2, 4, 4]
    known = IMPROVED | (IMPROVED_LSUN if lsun else {})
    return _release(state, shapes, known, path, size, settings)


def _weights(path: Path) -> State:
    data = read_weights(path)
    state = unwrapped(data) if isinstance(data, dict) else {}
    if "time_embed.0.weight" not in state:
        raise UsageError(f"{path} holds no weights of guided-diffusion or improved-diffusion")
    if len(state["input_blocks.0.0.weight"][0]) == 6:
        raise UsageError(f"no import of {path}: it makes images larger, out of smaller ones")
    return state


def _upward(state: State) -> bool:
    return any(key.startswith("output_blocks.") for key in state)


def _release(
    state: State,
    shapes: dict[str, Any],
    known: Settings,
    path: Path,
    size: int | None,
    settings: Settings,
) -> Release:
    flags = {key: settings.get(key, value) for key, value in known.items()}
    released = SIZES.get(tuple(shapes["multipliers"]))
    size = known_size(settings.get("image_size", size) or released, path)
    channels = state["input_blocks.0.0.weight"].shape[1]
    learned = len(state["out.2.weight"]) == 2 * channels
    classes = len(state["label_emb.weight"]) if "label_emb.weight" in state else 0
    head_width = flags["num_head_channels"] if flags["num_head_channels"] > 0 else None
    network = {
        "name": "unet",
        **network_of(shapes, size),
        "heads": flags["num_heads"],
        "head_width": head_width,
        "dropout": float(flags["dropout"]),
        "frequencies": "cosine",
        "norm_eps": 1e-5,
    }
    recipe = ddpm_recipe(
        {"name": flags["noise_schedule"], "levels": flags["diffusion_steps"]},
        network,
        noise_input="thousandths" if flags["rescale_timesteps"] else "level",
        variance="learned" if learned else "fixed",
        clip=True,
    )
    rewrite = partial(adm_state, new_order=bool(flags["use_new_attention_order"]))
    return Release(
        recipe,
        (channels, size, size),
        state,
        adm_names,
        rewrite=rewrite,
        classes=classes,
        assumed=_assumed(flags, settings, size),
    )


def _assumed(flags: Settings, settings: Settings, size: int) -> tuple[str, ...]:
    silent = {key: value for key, value in flags.items() if key not in settings}
    said = [f"--{key} {value}" for key, value in silent.items()]
    lines = [f"flags as networks of these shapes have them: {' '.join(said)}"] if said else []
    if "image_size" not in settings:
        lines.append(f"images of {size} pixels")
    return tuple(lines) or ("nothing",)
