"""`diffgen explain`: what `diffgen train` would do with the same words, told in seconds."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from diffgen.commands.data_dependent import followed, resolved
from diffgen.commands.explain.cost import Cost, cost_of
from diffgen.commands.explain.explanation import Data, data_of, explained
from diffgen.commands.explain.picture import draw
from diffgen.commands.explain.report import Rows, part_text, plain, print_rows, show
from diffgen.commands.initial_weights import begun
from diffgen.commands.resume import key_of
from diffgen.commands.train import Run
from diffgen.config.schema import Explain
from diffgen.dataset.images import Images, in_memory
from diffgen.errors import UsageError
from diffgen.files import write_text
from diffgen.runs.checkpoint import Checkpoint, load
from diffgen.runs.locate import locate
from diffgen.runtime.launch import quiet


def explain(settings: Explain) -> None:
    """Tell of a training, whose folder is printed last, or of a checkpoint."""
    quiet()
    if settings.checkpoint is not None:
        told = ("checkpoint", "runs", "trust", "recipe")
        typed = HydraConfig.get().overrides.task
        if others := [word for word in typed if key_of(word) not in told]:
            raise UsageError(
                f"a checkpoint is told of as it is: leave out checkpoint=, or {' '.join(others)}"
            )
        show_checkpoint(settings.checkpoint, Path(settings.runs))
    else:
        explain_training(settings)


def explain_training(settings: Explain) -> None:
    """Print and draw what a training with this configuration would be."""
    settings, _ = begun(followed(settings), HydraConfig.get().overrides.task)
    folder = Path(HydraConfig.get().runtime.output_dir)
    needed = bool(settings.recipe.unmeasured()) or settings.recipe.model.range == "standardised"
    data = data_of(settings, needed)
    settings = resolved(settings, data.images)
    found = explained(settings, data, applied())
    if settings.cost:
        found = replace(found, cost=cost(settings, data))
    show(found, settings.num_samples)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "explain.json", json.dumps(plain(found), indent=1))
    draw(folder / "explain.png", found.ladder, found.sampler, found.grey, found.apart)
    print(folder)


def applied() -> str | None:
    """The recipe that stands in the configuration, None without one."""
    choice = HydraConfig.get().runtime.choices.get("recipe")
    return None if choice in (None, "none") else f"recipe/{choice}.yaml"


def cost(settings: Explain, data: Data) -> Cost:
    """Measure what training and sampling take; images of noise stand in for the data's."""
    module = Run(settings.replaced(compile=False), Path()).module(stand_in(data))
    return cost_of(module, settings.trainer)


def stand_in(data: Data) -> Images:
    """The training set, or a grey image of its shape with its number of classes."""
    if data.images is not None:
        return data.images
    grey = torch.full((1, *data.shape), 128, dtype=torch.uint8)
    return in_memory(grey, None, tuple(map(str, range(data.num_classes))), data.name)


def show_checkpoint(name: str, runs: Path) -> None:
    """Print a checkpoint's recipe, and of an imported one what was assumed of its files."""
    print_rows(checkpoint_rows(load(locate(name, runs))))


def checkpoint_rows(found: Checkpoint) -> Rows:
    recipe, states = found.recipe, found.states
    count = sum(value.numel() for value in (states["raw"] | found.weights()).values())
    shape = " x ".join(map(str, found.shape))
    classes = f"{len(found.classes)} classes" if found.classes else "no labels"
    averages = ", ".join(name for name in states if name != "raw") or "none"
    return [
        ("file", str(found.path)),
        ("hash", found.hash[:16]),
        ("data", f"{recipe.get('dataset', {}).get('name', 'unknown')}, {shape}, {classes}"),
        ("step", f"{found.step:,}"),
        ("averages", averages),
        ("parameters", f"{count:,}"),
        *_parts(recipe),
        *_origin(recipe),
    ]


def _parts(recipe: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key in ("model", "schedule", "prediction", "network"):
        if isinstance(part := recipe.get(key), dict):
            yield key, part_text(part)


def _origin(recipe: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if recipe.get("init"):
        chosen = recipe.get("init_ema") or "its average"
        yield "begun from", f"{recipe['init']}, {chosen}, hash {str(recipe.get('init_hash'))[:16]}"
    origin = recipe.get("imported")
    if isinstance(origin, dict):
        yield "imported", f"from {origin.get('file')}, a file of {origin.get('kind')}"
        yield from (("imported", str(said)) for said in origin.get("said", ()))
