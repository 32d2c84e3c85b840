"""`diffgen explain`: what `diffgen train` would do with the same words, told in seconds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from diffgen.commands.data_dependent import followed, resolved, waiting
from diffgen.commands.explain.cost import Cost, cost_of
from diffgen.commands.explain.data import Data, data_of
from diffgen.commands.explain.explanation import explained
from diffgen.commands.explain.picture import draw
from diffgen.commands.explain.report import plain, tell
from diffgen.commands.train import Run
from diffgen.config.build import typed
from diffgen.config.recipe import TrainerSettings
from diffgen.dataset.images import Images, in_memory
from diffgen.files import write_atomically
from diffgen.runtime.launch import quiet


def explain(cfg: DictConfig) -> None:
    """Print and draw what a configuration comes to; the folder is printed last."""
    quiet()
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    config = followed(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    measured, num_samples = config.pop("cost"), config.pop("num_samples")
    needed = bool(waiting(config)) or config["model"].get("range") == "standardised"
    data = data_of(config, needed)
    config = resolved(config, data.images)
    found = explained(config, data, applied())
    if measured:
        found = replace(found, cost=cost(config, data))
    tell(found, num_samples)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plain(found), indent=1).encode()
    write_atomically(folder / "explain.json", lambda file: file.write(text))
    draw(folder / "explain.png", found.ladder, found.way, found.grey, found.apart)
    print(folder)


def applied() -> str | None:
    """The recipe that stands in the configuration, None where its file does not exist."""
    job = HydraConfig.get()
    name = f"recipe/{job.runtime.choices.get('recipe')}.yaml"
    folders = (s.path for s in job.runtime.config_sources if s.schema == "file")
    return name if any((Path(folder) / name).is_file() for folder in folders) else None


def cost(config: dict[str, Any], data: Data) -> Cost:
    """Measure what training and sampling take; images of noise stand in for the data's."""
    settings = typed(TrainerSettings, "trainer", config["trainer"])
    module = Run({**config, "compile": False}, Path()).module(stand_in(data), settings)
    return cost_of(module, settings)


def stand_in(data: Data) -> Images:
    """The training set, or a grey image of its shape with its number of classes."""
    if data.images is not None:
        return data.images
    grey = torch.full((1, *data.shape), 128, dtype=torch.uint8)
    return in_memory(grey, None, tuple(map(str, range(data.num_classes))), data.name)
