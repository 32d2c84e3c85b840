"""What is found in a file of another program, before its weights are ours."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffgen.errors import UsageError
from diffgen.interop.files import Names, State

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Release:
    """Weights under their program's names, and the recipe of the same model in ours.

    `state` and `average` ({} without one) become ours by `rewrite`, of a state and our network,
    and by `names` of that network. `classes` is their number. `assumed` are the things that no
    file says, one sentence each.
    """

    recipe: dict[str, Any]
    shape: tuple[int, int, int]
    state: State
    names: Callable[[Any], Names]
    average: State = field(default_factory=dict)
    rewrite: Callable[[State, Any], State] = lambda state, network: state
    classes: int = 0
    step: int = 0
    assumed: tuple[str, ...] = ()


Reader = Callable[[Path, int | None, Settings], Release]


def recipe_of(
    name: str,
    *,
    schedule: Settings,
    prediction: Settings,
    noise_input: str,
    network: Settings,
    **model: Any,
) -> dict[str, Any]:
    """A recipe of images in [-1, 1]; `name` is the model's, `model` what else it says."""
    stated = {"name": name, "noise_input": noise_input, "range": "symmetric", "clip": False}
    return {
        "model": stated | model,
        "prediction": dict(prediction),
        "schedule": dict(schedule),
        "network": dict(network),
    }


def only(settings: Settings, allowed: Collection[str], what: str, path: Path) -> None:
    """UsageError for settings of another program that no network of ours has."""
    if wrong := sorted(set(settings) - set(allowed)):
        listed = ", ".join(f"{key}={settings[key]}" for key in wrong)
        raise UsageError(f"no import of {path}: {what} with {listed}")


def must(settings: Settings, key: str, value: Any, what: str, path: Path) -> None:
    """UsageError where a setting is there and says something else than all our networks do."""
    if settings.get(key, value) != value:
        raise UsageError(f"no import of {path}: {what} with {key}={settings[key]}, only {value}")
