"""`diffgen explain`: what `diffgen train` would do with the same words, told in seconds."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig

from diffgen.commands.data_dependent import followed, resolved
from diffgen.commands.explain.checkpoint import tell
from diffgen.commands.explain.cost import Cost, cost_of
from diffgen.commands.explain.explanation import Data, data_of, explained
from diffgen.commands.explain.picture import draw
from diffgen.commands.explain.report import plain, show
from diffgen.commands.initial_weights import begun
from diffgen.commands.train import Run
from diffgen.config.schema import Explain
from diffgen.dataset.images import Images, in_memory
from diffgen.files import write_text
from diffgen.runtime.launch import quiet


def explain(settings: Explain) -> None:
    """Tell of a training, whose folder is printed last, or of a checkpoint."""
    quiet()
    if settings.checkpoint is not None:
        tell(settings.checkpoint, Path(settings.runs))
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
