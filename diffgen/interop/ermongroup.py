"""Checkpoints of ermongroup's NCSN, NCSNv2 and DDIM, as recipes.

Each is a list, keys under `module.`, the average last. What the weights do not tell stands in
config.yml beside them, where there is one.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffgen.errors import UsageError
from diffgen.interop.files import Names, Recipe, Release, Settings, Shape, State, read_training
from diffgen.interop.parameter_names import CONDITIONAL, UNCONDITIONAL, ddim_names, ncsn_names
from diffgen.interop.recipes import ddpm_recipe, denoiser_recipe, origin_of, size_of
from diffgen.interop.settings import setting

DEPTHS = {4: "standard", 5: "deeper", 6: "deepest"}
NCSN = {"range": "unit", "reduction": "sum"}  # the model of both papers
EMBED = "normalizer.embed.weight"
BETAS = ("beta_schedule", "beta_start", "beta_end", "num_diffusion_timesteps")
QUADRATIC = {"quad": "quadratic"}
ATTENTION = 16  # the resolution of attention in all published networks of DDPM and DDIM


def read_ncsn(path: Path, size: int | None, config: Settings) -> Release:
    """NCSN (2019): as many levels as rows of the norms' tables; 1 to 0.01 unless given."""
    state, average, step = read_training(path)
    stem, levels = _weight(state, "begin_conv.weight"), len(_weight(state, EMBED))
    _agree(config, {**_of_stem("model.ngf", stem), "model.num_classes": levels})
    most, least = (float(setting(config, f"model.sigma_{end}")) for end in ("begin", "end"))
    recipe = denoiser_recipe(
        "ncsn",
        schedule=_geometric(most, least, levels),
        prediction={"name": "raw_score"},
        noise_input="index",
        network={"name": "ncsn_refinenet", "width": len(stem)},
        dequantise=True,
        **NCSN,
    )
    recipe |= origin_of(config, "ncsn")
    shape = _shape(stem, size_of(setting(config, "data.image_size"), size))
    names = partial(ncsn_names, norm=CONDITIONAL)
    return Release(recipe, shape, state, names, average, _without_sigmas, step=step)


def read_ncsnv2(path: Path, size: int | None, config: Settings) -> Release:
    """NCSNv2 (2020): the noise levels are in the file, the greatest sigma first."""
    state, average, step = read_training(path)
    stages = {key.split(".")[0] for key in state if key.startswith("res")}
    if len(stages) not in DEPTHS:
        raise UsageError(f"a network of {len(stages)} stages is none of NCSNv2's")
    stem, schedule = _weight(state, "begin_conv.weight"), _geometric_of(_weight(state, "sigmas"))
    ends = {"model.sigma_begin": schedule["sigma_max"], "model.sigma_end": schedule["sigma_min"]}
    of_levels = {"model.num_classes": schedule["levels"]}
    _agree(config, {**_of_stem("model.ngf", stem), **of_levels, **ends})
    recipe = denoiser_recipe(
        "ncsnv2",
        schedule=schedule,
        prediction={"name": "score"},
        noise_input="nothing",
        network={"name": "refinenet", "width": len(stem), "depth": DEPTHS[len(stages)]},
        dequantise=bool(config.get("data", {}).get("uniform_dequantization", False)),
        **NCSN,
    )
    recipe |= origin_of(config, "ncsn")
    shape = _shape(stem, size_of(setting(config, "data.image_size"), size))
    names = partial(ncsn_names, norm=UNCONDITIONAL)
    return Release(recipe, shape, state, names, average, _without_sigmas, step=step)


def read_ddim(path: Path, size: int | None, config: Settings) -> Release:
    """DDIM's and DDPM's U-Nets; without a config, of the published size, attention at 16."""
    state, average, step = read_training(path)
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
    recipe = ddpm_recipe(schedule, network, clip=True) | origin_of(config, "ddim")

    def names(network: nn.Module) -> Names:
        return ddim_names(network.state_dict())

    return Release(recipe, _shape(stem, size), state, names, average, step=step)


def _without_sigmas(state: State, _: nn.Module) -> State:
    """The state without NCSN's noise levels, which are no parameter of ours."""
    return {key: value for key, value in state.items() if key != "sigmas"}


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


def _of_stem(width: str, stem: Tensor) -> dict[str, Any]:
    return {width: len(stem), "data.channels": stem.shape[1]}


def _agree(config: Settings, facts: Mapping[str, Any]) -> None:
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
