"""Recipes of released networks, read from the shapes of their weights and from their configs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.interop.files import State

Recipe = dict[str, Any]
Shape = tuple[int, int, int]

DEPTHS = {4: "standard", 5: "deeper", 6: "deepest"}
DATASETS = {"MNIST": "mnist", "CIFAR10": "cifar10", "CELEBA": "celeba", "LSUN": "lsun"}
SIZED = {"celeba", "lsun"}
ATTENTION = 16  # the resolution of attention in all published networks of DDPM and DDIM


def ncsn_recipe(state: State, config: Recipe, size: int | None) -> tuple[Recipe, Shape]:
    """NCSN (2019): as many levels as rows of the norms' tables; 1 to 0.01 unless given."""
    model = config.get("model", {})
    levels = len(_weight(state, "normalizer.embed.weight"))
    ends = float(model.get("sigma_begin", 1.0)), float(model.get("sigma_end", 0.01))
    family = {"name": "ncsn", "noise_input": "index", "dequantise": True}
    network = {"name": "ncsn_refinenet", "width": len(_weight(state, "begin_conv.weight"))}
    schedule = _geometric(*ends, levels)
    recipe = _ncsn_family(family, "raw_score", schedule, network, config)
    return recipe, _shape(_weight(state, "begin_conv.weight"), _size(config, size))


def ncsnv2_recipe(state: State, config: Recipe, size: int | None) -> tuple[Recipe, Shape]:
    """NCSNv2 (2020): the noise levels are in the file, the greatest sigma first."""
    stages = {key.split(".")[0] for key in state if key.startswith("res")}
    if len(stages) not in DEPTHS:
        raise UsageError(f"a network of {len(stages)} stages is none of NCSNv2's")
    width = len(_weight(state, "begin_conv.weight"))
    network = {"name": "refinenet", "width": width, "depth": DEPTHS[len(stages)]}
    family = {"name": "ncsnv2", "noise_input": "nothing"}
    recipe = _ncsn_family(
        family, "score", _geometric_of(_weight(state, "sigmas")), network, config
    )
    return recipe, _shape(_weight(state, "begin_conv.weight"), _size(config, size))


def ddim_recipe(state: State, config: Recipe, size: int | None) -> tuple[Recipe, Shape]:
    """DDIM's and DDPM's U-Nets; without a config, of the published size, attention at 16."""
    stem, diffusion = _weight(state, "conv_in.weight"), config.get("diffusion", {})
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("down."))
    widths = [len(_weight(state, f"down.{level}.block.0.conv1.weight")) for level in range(depth)]
    attending = [level for level in range(depth) if f"down.{level}.attn.0.q.weight" in state]
    size = _size(config, size or (ATTENTION << attending[0] if len(attending) == 1 else None))
    network = {
        "name": "unet",
        "width": len(stem),
        "multipliers": [width // len(stem) for width in widths],
        "blocks": len({key.split(".")[3] for key in state if key.startswith("down.0.block.")}),
        "attention": [size >> level for level in attending],
        "dropout": config.get("model", {}).get("dropout", 0.0),
    }
    if diffusion.get("beta_schedule", "linear") != "linear":
        raise UsageError(f"no import of a {diffusion['beta_schedule']} schedule, only of linear")
    schedule = {
        "name": "linear",
        "levels": diffusion.get("num_diffusion_timesteps", 1000),
        "beta_min": diffusion.get("beta_start", 1e-4),
        "beta_max": diffusion.get("beta_end", 0.02),
        "rescale": False,
    }
    return ddpm_recipe(schedule, network, config), _shape(stem, size)


def ddpm_recipe(schedule: Recipe, network: Recipe, config: Recipe) -> Recipe:
    """A recipe of DDPM's kind: eps in [-1, 1], the level as the network's input."""
    model = {"name": "ddpm", "noise_input": "level", "range": "symmetric", "clip": True}
    parts = {"model": model, "prediction": {"name": "eps"}, "schedule": schedule}
    return parts | {"network": network} | _origin(config, "ddim")


def _ncsn_family(
    family: Recipe, prediction: str, schedule: Recipe, network: Recipe, config: Recipe
) -> Recipe:
    model = {**family, "range": "unit", "reduction": "sum", "clip": False}
    parts = {"model": model, "prediction": {"name": prediction}, "schedule": schedule}
    return parts | {"network": network} | _origin(config, "ncsn")


def _geometric_of(sigmas: Tensor) -> Recipe:
    log_sigmas = sigmas.double().log()
    first, last = log_sigmas[0].item(), log_sigmas[-1].item()
    even = torch.linspace(first, last, len(sigmas), dtype=torch.float64)
    if not (first > last and torch.allclose(log_sigmas, even, atol=1e-4)):
        raise UsageError("the file's sigmas are no geometric sequence from the greatest down")
    # Six digits undo the rounding to float32, so that 0.01 comes back as 0.01.
    greatest, least = (float(f"{sigma:.6g}") for sigma in sigmas[[0, -1]].tolist())
    return _geometric(greatest, least, len(sigmas))


def _geometric(sigma_max: float, sigma_min: float, levels: int) -> Recipe:
    ends = {"sigma_max": sigma_max, "sigma_min": sigma_min}
    return {"name": "geometric", **ends, "levels": levels}


def _origin(config: Recipe, crop: str) -> Recipe:
    """dataset and ema, where the config names them."""
    data, model = config.get("data", {}), config.get("model", {})
    origin: Recipe = {}
    name = DATASETS.get(str(data.get("dataset")))
    if name:
        sized = {"size": data["image_size"]} if name in SIZED else {}
        cropped = {"crop": crop} if name == "celeba" else {}
        category = {"category": data["category"]} if name == "lsun" else {}
        origin["dataset"] = {"name": name, **sized, **cropped, **category}
    if "ema_rate" in model:
        origin["ema"] = {"average": {"decay": model["ema_rate"], "warmup": False, "width": None}}
    return origin


def _size(config: Mapping[str, Any], size: int | None) -> int:
    size = config.get("data", {}).get("image_size", size)
    if size is None:
        raise UsageError(
            "the weights do not say the size of the images",
            "give it, such as size=32, or put the run's config.yml beside the file",
        )
    return int(size)


def _shape(stem: Tensor, size: int) -> Shape:
    return stem.shape[1], size, size


def _weight(state: State, key: str) -> Tensor:
    if key not in state:
        raise UsageError(f"the file lacks {key}: it is of another kind")
    return state[key]
