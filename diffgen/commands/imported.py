"""A checkpoint of imported weights: made, checked, written, and told of."""

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffgen import __version__
from diffgen.config.build import build
from diffgen.dataset.pixels import RANGES
from diffgen.errors import UsageError
from diffgen.files import write_atomically
from diffgen.interop.config_files import Config
from diffgen.interop.convert import Imported, Snapshots, convert, snapshots
from diffgen.interop.settings import assumed
from diffgen.runs.checkpoint import load
from diffgen.runs.checkpoint_format import PREFIX, header, seal


def convert_files(options: Namespace, config: Config) -> None:
    """Convert what the options of `diffgen import` name; print what was read and its folder."""
    series = snapshots(options.path) if _is_series(options) else None
    found = (
        series.at(series.steps[-1])
        if series
        else convert(options.kind, options.path, options.size, config)
    )
    _check_finite(found, options.path)
    dataset = _dataset(found, options.dataset, options.trust)
    recipe = {**found.recipe, "dataset": dataset}
    path = _target(options.out, found, dataset["name"], options.path)
    if path.exists():
        raise UsageError(f"{path} is there already: give another OUT, or remove it")
    said = list(_assumed(options, config, found))
    recipe["imported"] = {"kind": options.kind, "file": options.path.name, "said": said}
    try:
        if series:
            _write_earlier(series, recipe, path.parent)
        checkpoint = sealed(found, recipe)
        write_atomically(path, lambda file: torch.save(checkpoint, file))
        made = load(path)
        made.denoiser() if "prediction" in recipe else made.classifier()
    except BaseException:
        for file in [
            path,
            *(_earlier(path.parent, at) for at in (series.steps if series else ())),
        ]:
            file.unlink(missing_ok=True)
        raise
    print(_summary(found, recipe))
    for line in said:
        print(line)
    print(path.parent.parent if path.parent.name == "checkpoints" else path)


def _check_finite(found: Imported, path: Path) -> None:
    """UsageError where the weights that images are drawn with are not finite."""
    drawn = found.ema or next(iter(found.averages.values()), found.raw)
    if not all(bool(value.isfinite().all()) for value in drawn.values()):
        raise UsageError(f"the weights in {path} are not finite: their training diverged")


def _is_series(options: Namespace) -> bool:
    """Whether a folder of EDM2's snapshots is imported; UsageError where OUT is one file."""
    if options.kind != "edm2" or not options.path.is_dir():
        return False
    if options.out is not None and options.out.suffix == ".ckpt":
        raise UsageError(f"{options.out}: snapshots become several files; name a run's folder")
    return True


def _earlier(folder: Path, step: int) -> Path:
    return folder / f"ema_{step:07d}.ckpt"


def _write_earlier(series: Snapshots, recipe: Mapping[str, Any], folder: Path) -> None:
    """The averages before the last ones, as a training of diffgen keeps them; one at a time."""
    said = ("dataset", "imported")
    last = {key: part for key, part in recipe.items() if key not in said}
    for step in series.steps[:-1]:
        found = series.at(step)
        if found.recipe != last:
            raise UsageError(f"the snapshots at {step} are of another network than the last ones")
        content = sealed(found, recipe)
        write_atomically(_earlier(folder, step), lambda file, all=content: torch.save(all, file))


def sealed(found: Imported, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of these weights, with nothing to train on from."""
    averages = {"average": found.ema} if found.ema else found.averages
    checkpoint: dict[str, Any] = {
        "state_dict": {PREFIX + key: value for key, value in _plain(found.raw).items()},
        "ema": {name: _plain(state) for name, state in averages.items()},
        "global_step": found.step,
        "diffgen": header(
            __version__, recipe, RANGES[recipe["model"]["range"]], found.shape, found.classes
        ),
    }
    seal(checkpoint)
    return checkpoint


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().contiguous().clone() for key, value in state.items()}


def _dataset(found: Imported, name: str | None, trust: Sequence[str]) -> dict[str, Any]:
    """The data set's settings: as given, as the file tells, or a folder of such images."""
    channels, size, _ = found.shape
    stated = found.recipe.get("dataset", {})
    shape = {"size": size, "channels": channels}
    if name is None:
        return stated or {"name": "folder", **shape, "labels": False}
    if stated.get("name") == name:
        return stated
    known = build("dataset", {"name": name}, trust)
    if getattr(known, "channels", None) not in (None, channels):
        raise UsageError(
            f"--dataset {name}: its images have {known.channels} channels, those of this network "
            f"{channels}; leave --dataset out, or name what it learned"
        )
    return {
        "name": name,
        **{k: v for k, v in shape.items() if k in signature(type(known)).parameters},
    }


def _target(out: Path | None, found: Imported, dataset: str, source: Path) -> Path:
    model = found.recipe["model"]["name"]
    run = out or Path("runs") / f"{dataset}_{model}" / f"imported_{source.stem}"
    return run if run.suffix == ".ckpt" else run / "checkpoints" / "last.ckpt"


def _assumed(options: Namespace, config: Config, found: Imported) -> Iterator[str]:
    """What no file says and is taken all the same, and what samplers are to be told."""
    model, schedule = found.recipe["model"], found.recipe["schedule"]
    low = "0" if model["range"] == "unit" else "-1"
    classifies = "prediction" not in found.recipe
    settings = ", ".join(f"{key}={value}" for key, value in schedule.items() if key != "name")
    read = f"read as: schedule={schedule['name']} ({settings})"
    if classifies:
        yield f"{read}, a classifier of noisy images in [{low}, 1], for guidance=classifier"
    else:
        prediction = found.recipe["prediction"]["name"]
        clip = str(model["clip"]).lower()
        yield f"{read}, prediction={prediction}, images in [{low}, 1], clip={clip}"
    if found.assumed:
        yield f"assumed, as no file says it: {'; '.join(found.assumed)}"
    taken = [] if found.assumed else assumed(options.kind, config)
    sized = (options.size, config.get("data", {}).get("image_size"), config.get("unet"))
    taken += [f"size {found.shape[1]}"] if not any(sized) and not found.assumed else []
    missing = "" if config else "no configuration was found (--config FILE names one); "
    if taken:
        yield f"{missing}assumed, as no file says it: {', '.join(taken)}"
    if found.classes and not classifies and not model.get("label_dropout"):
        yield f"{len(found.classes)} classes and no label for none: no classifier-free guidance"
    scheduler = config.get("scheduler", {})
    variances = scheduler.get("variance_type", config.get("model", {}).get("var_type"))
    if str(variances).replace("_", "").startswith("fixedlarge"):
        yield "its own program draws with the larger variance: sampler=ddpm_large"
    if scheduler.get("thresholding"):
        yield "its own program clips dynamically: clip=dynamic"


def _summary(found: Imported, recipe: Mapping[str, Any]) -> str:
    whole = found.raw or next(iter(found.averages.values()))
    count = sum(value.numel() for value in whole.values())
    average = "with its average" if found.ema or found.averages else "without an average"
    shape = " x ".join(map(str, found.shape))
    line = (
        f"{recipe['network']['name']} of {count:,} parameters for {shape}, "
        f"{recipe['schedule'].get('levels', 'any number of')} levels, "
        f"step {found.step:,}, {average}"
    )
    if "dataset" in found.recipe or recipe["dataset"]["name"] != "folder":
        return line
    return f"{line}; no file names its data set, so that metrics need root=FOLDER of such images"
