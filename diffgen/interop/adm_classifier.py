"""Classifiers of noisy images of openai/guided-diffusion, as recipes of model=classifier."""

from collections.abc import Iterator
from pathlib import Path

from diffgen.errors import UsageError
from diffgen.interop.adm import (
    CONV,
    SIZES,
    adm_names,
    adm_state,
    known_size,
    network_of,
    shapes_of,
)
from diffgen.interop.files import Release, Settings, State

HEAD = 64  # channels of a head, in all of their classifiers
POOLS = {"out.2.positional_embedding": "attention", "out.3.weight": "average"}
KNOWN = {"noise_schedule": "linear", "diffusion_steps": 1000, "rescale_timesteps": False}


def read_classifier(state: State, path: Path, size: int | None, settings: Settings) -> Release:
    """A classifier of guided-diffusion; UsageError for one that pools in another way."""
    pool = next((pool for key, pool in POOLS.items() if key in state), None)
    if pool is None:
        raise UsageError(
            f"no import of {path}: a classifier that pools by neither attention nor an average"
        )
    side = _side(state) if pool == "attention" else None
    shapes = shapes_of(state, path, _blocks(state, settings, path))
    size = _size(shapes["multipliers"], side, settings.get("image_size", size), path)
    known = KNOWN | ({"noise_schedule": "cosine"} if size == 64 else {})
    flags = {key: settings.get(key, value) for key, value in known.items()}
    if flags["rescale_timesteps"] and flags["diffusion_steps"] != 1000:
        raise UsageError(f"no import of {path}: rescale_timesteps of other than 1000 levels")
    network = {
        "name": "classifier_unet",
        **network_of(shapes, size),
        "head_width": HEAD,
        "pool": pool,
    }
    recipe = {
        "model": {"name": "classifier", "noise_conditional": True, "range": "symmetric"},
        "schedule": {"name": flags["noise_schedule"], "levels": flags["diffusion_steps"]},
        "network": network,
    }
    classes = len(state["out.2.c_proj.weight" if pool == "attention" else "out.3.weight"])
    channels = state["input_blocks.0.0.weight"].shape[1]
    said = [f"--{key} {value}" for key, value in flags.items() if key not in settings]
    lines = [f"flags of the released classifier of {size} pixels: {' '.join(said)}"]
    return Release(
        recipe,
        (channels, size, size),
        state,
        adm_names,
        rewrite=adm_state,
        classes=classes,
        assumed=tuple(lines if said else ()),
    )


def _side(state: State) -> int:
    """Pixels along the narrowest place, each of which has a row, and their mean one more."""
    count = state["out.2.positional_embedding"].shape[1] - 1
    side = round(count**0.5)
    if side < 1 or side**2 != count:
        raise UsageError(f"its attention pools {count} pixels, which are no square")
    return side


def _size(multipliers: list[int], side: int | None, stated: int | None, path: Path) -> int:
    """The size of the images: that of the pooled pixels, doubled at every level."""
    pooled = side << (len(multipliers) - 1) if side else None
    if pooled and stated and pooled != stated:
        raise UsageError(f"no import of {path}: it is for images of {pooled} pixels, not {stated}")
    return known_size(pooled or stated or SIZES.get(tuple(multipliers)), path)


def _blocks(state: State, settings: Settings, path: Path) -> int | None:
    """Residual blocks of a level; None where convolutions between the levels tell it.

    Where blocks halve the resolution, only a number fits by which channels change and attention
    begins with a level, and by which the first block of a level has none.
    """
    if any(key.endswith(".op.weight") for key in state):
        return None
    fitting = list(_fitting(state))
    stated = settings.get("classifier_depth")
    if stated in fitting:
        return stated
    if len(fitting) != 1 or stated is not None:
        listed = " or ".join(map(str, fitting)) or "no number"
        raise UsageError(
            f"no import of {path}: its weights fit {listed} as the blocks of a level",
            "state classifier_depth in config.yml (--config FILE)",
        )
    return fitting[0]


def _fitting(state: State) -> Iterator[int]:
    shapes = {int(m[1]): value.shape for key, value in state.items() if (m := CONV.match(key))}
    count = max(shapes)
    attends = [f"input_blocks.{index}.1.qkv.weight" in state for index in range(count + 1)]
    changes = [index for index, shape in shapes.items() if shape[0] != shape[1]]
    for each in range(2, count + 2):
        if (count + 1) % each:
            continue
        levels = [attends[start + 1 : start + each] for start in range(0, count + 1, each)]
        alike = all(len(set(level)) == 1 for level in levels)
        halving = any(attends[start] for start in range(0, count + 1, each))
        if alike and not halving and all(index % each == 1 for index in changes):
            yield each - 1
