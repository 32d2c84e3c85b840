"""Checkpoints of diffgen 0.1.0, brought up to date as they are read. Nothing else knows them."""

import re
from collections.abc import Mapping
from typing import Any

# Names of parameters, then and now.
RENAMED = (
    (r"\btold_norm\b", "emb_norm"),
    (r"\.told\.(weight|bias)$", r".emb_proj.\1"),
)


def upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's content in today's format, as it is where it is of today."""
    header = data["diffgen"]
    if header["format"] != 1:
        return data
    return {
        **data,
        "state_dict": _renamed(data["state_dict"]),
        "ema": {name: _renamed(state) for name, state in data["ema"].items()},
        "diffgen": {**header, "format": 2, "recipe": upgraded_recipe(header["recipe"])},
    }


def upgraded_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe of 0.1.0, where `model` held what prediction, times and weighting are now."""
    model = dict(recipe["model"])
    times = {"name": model.pop("times", "uniform")}
    mean, std = model.pop("log_sigma_mean", -1.2), model.pop("log_sigma_std", 1.2)
    if times["name"] == "log_normal":
        times |= {"mean": mean, "std": std}
    found = {**recipe, "times": times, "model": model}
    if model.get("name") == "classifier":
        return found
    data, gamma = model.pop("sigma_data", None), model.pop("gamma", 5.0)
    prediction = {"name": model.pop("prediction", "eps")}
    if prediction["name"] == "edm":
        prediction["sigma_data"] = 0.5 if data is None else data
    weighting = {"name": model.pop("weighting", "simple")}
    if weighting["name"] in ("min_snr", "soft_min_snr"):
        weighting["gamma"] = gamma
    if weighting["name"] == "edm":
        weighting["sigma_data"] = data or 0.5
    model["noise_input"] = model.pop("told", "level")
    return {**found, "prediction": prediction, "weighting": weighting}


def _renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    names = {}
    for key in state:
        name = key
        for then, now in RENAMED:
            name = re.sub(then, now, name)
        names[key] = name
    return {names[key]: value for key, value in state.items()}
