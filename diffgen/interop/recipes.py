"""Recipes of released networks, read from the shapes of their weights and from their configs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.interop.files import State
from diffgen.interop.settings import setting

Recipe = dict[str, Any]
Shape = tuple[int, int, int]

DEPTHS = {4: "standard", 5: "deeper", 6: "deepest"}
DATASETS = {
    "CELEBA": "celeba",
    "CIFAR10": "cifar10",
    "FFHQ": "ffhq",
    "LSUN": "lsun",
    "MNIST": "mnist",
}
SIZED = {"celeba", "ffhq", "lsun"}
EMBED = "normalizer.embed.weight"
BETAS = ("beta_schedule", "beta_start", "beta_end", "num_diffusion_timesteps")
QUADRATIC = {"quad": "quadratic"}
LARGEST = 4096
ATTENTION = 16  # the resolution of attention in all published networks of DDPM and DDIM


def ncsn_recipe(state: State, config: Recipe, size: int | None) -> tuple[Recipe, Shape]:
    """NCSN (2019): as many levels as rows of the norms' tables; 1 to 0.01 unless given."""
    stem, levels = _weight(state, "begin_conv.weight"), len(_weight(state, EMBED))
    _agree(config, {**_of_stem("model.ngf", stem), "model.num_classes": levels})
    most, least = (float(setting(config, f"model.sigma_{end}")) for end in ("begin", "end"))
    family = {"name": "ncsn", "noise_input": "index", "dequantise": True}
    network = {"name": "ncsn_refinenet", "width": len(stem)}
    recipe = _ncsn_family(family, "raw_score", _geometric(most, least, levels), network, config)
    return recipe, _shape(stem, size_of(setting(config, "data.image_size"), size))


def ncsnv2_recipe(state: State, config: Recipe, size: int | None) -> tuple[Recipe, Shape]:
    """NCSNv2 (2020): the noise levels are in the file, the greatest sigma first."""
    stages = {key.split(".")[0] for key in state if key.startswith("res")}
    if len(stages) not in DEPTHS:
        raise UsageError(f"a network of {len(stages)} stages is none of NCSNv2's")
    stem, schedule = _weight(state, "begin_conv.weight"), _geometric_of(_weight(state, "sigmas"))
    ends = {"model.sigma_begin": schedule["sigma_max"], "model.sigma_end": schedule["sigma_min"]}
    of_levels = {"model.num_classes": schedule["levels"]}
    _agree(config, {**_of_stem("model.ngf", stem), **of_levels, **ends})
    network = {"name": "refinenet", "width": len(stem), "depth": DEPTHS[len(stages)]}
    spread = bool(config.get("data", {}).get("uniform_dequantization", False))
    family = {"name": "ncsnv2", "noise_input": "nothing", "dequantise": spread}
    recipe = _ncsn_family(family, "score", schedule, network, config)
    return recipe, _shape(stem, size_of(setting(config, "data.image_size"), size))


def ddim_recipe(state: State, config: Recipe, size: int | None) -> tuple[Recipe, Shape]:
    """DDIM's and DDPM's U-Nets; without a config, of the published size, attention at 16."""
    stem = _weight(state, "conv_in.weight")
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("down."))
    widths = [len(_weight(state, f"down.{level}.block.0.conv1.weight")) for level in range(depth)]
    attending = [level for level in range(depth) if f"down.{level}.attn.0.q.weight" in state]
    published = ATTENTION << attending[0] if len(attending) == 1 else None
    size = size_of(setting(config, "data.image_size"), size, published)
    network = {
        "name": "unet",
        "width": len(stem),
        "multipliers": [width // len(stem) for width in widths],
        "blocks": len({key.split(".")[3] for key in state if key.startswith("down.0.block.")}),
        "attention": [size >> level for level in attending],
        "dropout": float(setting(config, "model.dropout")),
        "groups": 32,
        "exact_groups": True,
    }
    facts = {
        **_of_stem("model.ch", stem),
        "model.in_channels": stem.shape[1],
        "model.out_ch": len(_weight(state, "conv_out.weight")),
        "model.ch_mult": network["multipliers"],
        "model.num_res_blocks": network["blocks"],
    }
    stated = config.get("model", {}).get("attn_resolutions")
    inside = [side for side in stated or [] if side in {size >> level for level in range(depth)}]
    if stated is None or sorted(inside) != sorted(network["attention"]):
        facts["model.attn_resolutions"] = network["attention"]
    _agree(config, facts)
    name, low, high, levels = (setting(config, f"diffusion.{key}") for key in BETAS)
    schedule = {"name": QUADRATIC.get(name, name), "levels": levels}
    schedule |= {"beta_min": float(low), "beta_max": float(high), "rescale": False}
    return ddpm_recipe(schedule, network, config), _shape(stem, size)


def ddpm_recipe(schedule: Recipe, network: Recipe, config: Recipe) -> Recipe:
    """A recipe of DDPM's kind: eps in [-1, 1], the level as the network's input."""
    model = {"name": "ddpm", "noise_input": "level", "range": "symmetric", "clip": True}
    parts = {"model": model, "prediction": {"name": "eps"}, "schedule": schedule}
    return parts | {"network": network} | origin_of(config, "ddim")


def _ncsn_family(
    family: Recipe, prediction: str, schedule: Recipe, network: Recipe, config: Recipe
) -> Recipe:
    model = {**family, "range": "unit", "reduction": "sum", "clip": False}
    parts = {"model": model, "prediction": {"name": prediction}, "schedule": schedule}
    return parts | {"network": network} | origin_of(config, "ncsn")


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


def origin_of(config: Recipe, crop: str) -> Recipe:
    """dataset and ema, where the config names them."""
    data, model = config.get("data", {}), config.get("model", {})
    origin: Recipe = {}
    name = DATASETS.get(str(data.get("dataset")))
    if name:
        sized = {"size": data["image_size"]} if name in SIZED and "image_size" in data else {}
        cropped = {"crop": crop} if name == "celeba" else {}
        category = {"category": data["category"]} if name == "lsun" and "category" in data else {}
        origin["dataset"] = {"name": name, **sized, **cropped, **category}
    if "ema_rate" in model:
        origin["ema"] = {"average": {"decay": model["ema_rate"], "warmup": False, "width": None}}
    return origin


def size_of(stated: int | None, given: int | None, published: int | None = None) -> int:
    """The size of the images, by the configuration, by --size, or by the published networks."""
    if None not in (stated, given) and stated != given:
        raise UsageError(f"--size {given} contradicts the configuration's {stated}")
    size = stated or given or published
    if size is None:
        raise UsageError(
            "the weights do not say the size of the images",
            "give --size 32, or the run's configuration by --config FILE",
        )
    if not 1 <= size <= LARGEST:
        raise UsageError(f"no import of images of {size} pixels, only of 1 to {LARGEST:,}")
    return size


def _of_stem(width: str, stem: Tensor) -> dict[str, Any]:
    return {width: len(stem), "data.channels": stem.shape[1]}


def _agree(config: Recipe, facts: Mapping[str, Any]) -> None:
    """UsageError that names all settings that say otherwise than the weights."""
    wrong = []
    for key, fact in facts.items():
        section, _, name = key.partition(".")
        stated = config.get(section, {}).get(name, fact)
        close = isinstance(fact, float) and abs(stated - fact) < 1e-3 * abs(fact)
        if stated != fact and not close:
            wrong.append(f"{key}={stated} (in the weights {fact})")
    if wrong:
        raise UsageError(f"the configuration is not of these weights: {', '.join(wrong)}")


def _shape(stem: Tensor, size: int) -> Shape:
    return int(stem.shape[1]), size, size


def _weight(state: State, key: str) -> Tensor:
    if key not in state:
        raise UsageError(f"the file lacks {key}: it is of another kind")
    return state[key]
