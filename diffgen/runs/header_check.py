"""What a checkpoint says of itself, checked before anything is made of it."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diffgen.errors import UsageError

# The most that a recipe in a file may ask for; a name of a group stands for all integers in it.
LIMITS = {
    "schedule": 10**5,
    "network": 2**20,
    "sampler": 10**5,
    "preview": 10**5,
    "trainer.batch_size": 2**16,
    "trainer.accumulate": 2**16,
    "trainer.workers": 256,
}
NAMED = ("schedule", "network", "dataset")  # groups of a recipe with a name and settings
GROUPS = (*NAMED, "prediction", "times", "weighting", "sampler", "trainer", "preview", "ema")
GROUPS += ("logger", "optimizer", "guides")
PIXELS = 2**24  # numbers of an image
BATCH = 2**28  # numbers of the images that are in memory together


def check(data: Mapping[str, Any], path: object) -> None:
    """UsageError where the content of the file at `path` is not as checkpoint_format.py has it."""
    header = data["diffgen"]
    recipe, shape, pixels = header["recipe"], header["shape"], header["range"]
    sound = {
        "global_step": type(data["global_step"]) is int and data["global_step"] >= 0,
        "recipe": isinstance(recipe, dict) and isinstance(recipe.get("model"), dict),
        **{f"recipe.{group}": _group(recipe, group) for group in GROUPS},
        "recipe.ema": all(isinstance(kept, dict) for kept in recipe.get("ema", {}).values()),
        "range": set(pixels) == {"shift", "scale"} and _finite(pixels.values()),
        "shape": len(shape) == 3 and all(type(n) is int and n > 0 for n in shape),
        "classes": all(isinstance(name, str) for name in header["classes"]),
        "state_dict": _weights(data["state_dict"]),
        "ema": all(isinstance(n, str) and _weights(state) for n, state in data["ema"].items()),
        "log": "log" not in data or (_weights(data["log"]["losses"]) and _rows(data["log"])),
    }
    if wrong := [key for key, right in sound.items() if not right]:
        raise UsageError(f"{path} is damaged: its {wrong[0]} is none")
    _check_limits(recipe, path)
    per_image = math.prod(shape)
    together = recipe.get("trainer", {}).get("batch_size", 1) * per_image
    drawn = recipe.get("preview", {}).get("num_samples", 1) * per_image
    if per_image > PIXELS or max(together, drawn) > BATCH:
        raise UsageError(
            f"the recipe in {path} asks for {max(together, drawn):,} numbers of images of "
            f"{'x'.join(map(str, shape))} at once; {BATCH:,} are the most"
        )


def _group(recipe: Mapping[str, Any], name: str) -> bool:
    """Whether a group of a recipe has settings, and a name where it must."""
    group = recipe.get(name, None if name in NAMED else {})
    return isinstance(group, dict) and (name not in NAMED or isinstance(group.get("name"), str))


def _finite(values: Any) -> bool:
    return all(type(v) in (int, float) and math.isfinite(v) for v in values)


def _weights(state: Any) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())


def _rows(log: Mapping[str, Any]) -> bool:
    rows = log["unwritten"]
    return all(type(step) is int and isinstance(row, dict) for step, row in rows.items())


def _check_limits(recipe: Mapping[str, Any], path: object) -> None:
    for name, most in LIMITS.items():
        head, _, key = name.partition(".")
        group = recipe.get(head)
        stated = group.get(key) if key and isinstance(group, dict) else group
        for value in _integers(stated):
            if abs(value) > most:
                raise UsageError(
                    f"the recipe in {path} asks for {value:,} under {name}; {most:,} is the most"
                )


def _integers(value: Any) -> list[int]:
    """All integers inside plain data."""
    if isinstance(value, dict | list | tuple):
        inside = value.values() if isinstance(value, dict) else value
        return [number for each in inside for number in _integers(each)]
    return [value] if isinstance(value, int) else []
