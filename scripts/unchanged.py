"""What two versions of diffgen compute, compared to the bit.

    python scripts/unchanged.py record before.json     # with the one version installed
    python scripts/unchanged.py record after.json      # with the other
    python scripts/unchanged.py compare before.json after.json

A record holds hashes of the weights and averages of 30-step trainings on digits, of the images of
every sampler, guidance and task on these, of previews and tuned times, the table of a small sweep,
and the resolved values of every recipe. Weights are hashed in order, without their names, and
values of recipes are compared under today's names (RENAMED), so that renaming changes nothing.
"""

import argparse
import csv
import hashlib
import importlib
import io
import json
import os
import sys
from contextlib import chdir, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml

MODELS = ("ddpm", "ncsn", "ncsnv2", "edm", "classifier")
PRECISIONS = ("32-true", "bf16-mixed")
QUICK = (
    *("trainer.max_steps=30", "trainer.accelerator=cpu", "trainer.save_every=30"),
    *("preview.every=15", "preview.num_samples=4"),
)
FEW = ("num_samples=12", "batch_size=5", "metrics=[]", "accelerator=cpu")
SAMPLERS = (
    *("ddpm", "ddim", "euler", "heun", "deis", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "unipc"),
    *("euler_maruyama", "pc", "rk45", "langevin", "consistent"),
)
SAMPLINGS = {
    "ddim_noisy": ("sampler=ddim", "sampler.eta=1", "guidance.weight=1.5"),
    "heun_churned": ("sampler=heun", "sampler.churn=2", "spacing=karras"),
    "interval": ("sampler=ddim", "guidance.weight=2", "guidance.interval=[0.1,10]"),
    "rescaled": ("sampler=ddim", "guidance.weight=2", "guidance.rescale=0.7"),
    "dynamic": ("sampler=ddim", "clip=dynamic", "guidance.weight=3"),
    "ddpm_auto": ("sampler=ddpm", "sampler.variance=auto", "spacing=linspace"),
    "auto": ("sampler=ddim", "guidance=autoguidance", "guidance.checkpoint={ddpm}"),
    "guided": ("sampler=ddim", "guidance=classifier", "guidance.checkpoint={classifier}"),
    "labels": ("sampler=dpmpp_2m", "labels=[3,1]", "seed=5", "deterministic=true"),
    "raw": ("sampler=ddim", "ema=raw", "start=shell"),
}
TASKS = {
    "inpaint": ("task=inpaint", "task.image=0:2", "task.mask=left"),
    "inpaint_mmps": ("task=inpaint", "task.image=0:2", "task.mask=left", "task.rule=moments"),
    "interpolate": ("task=interpolate", "task.image=0:2"),
    "variations": ("task=variations", "task.image=0:2"),
    "denoise": ("task=denoise", "task.image=0:2", "task.sigma=0.2", "sampler=ddpm"),
}
SWEEP = ("sampler=ddim,heun", "steps=2,4", "guidance.weight=0,1", "num_samples=40", "seed=1")
UNSTABLE = ("seconds", "images_per_second", "versions", "checkpoint", "checkpoint_hash")
# Today's name of what a recipe of an earlier version called otherwise.
RENAMED = {
    "model.prediction": "prediction.name",
    "model.sigma_data": "prediction.sigma_data",
    "model.times": "times.name",
    "model.log_sigma_mean": "times.mean",
    "model.log_sigma_std": "times.std",
    "model.weighting": "weighting.name",
    "model.gamma": "weighting.gamma",
    "model.told": "model.noise_input",
}
# Values that recipes of 0.1.0 said and nothing used: the cap of another weighting's.
UNUSED = {"weighting.gamma"}
# What those recipes left to the defaults of classes, and today's say.
UNSAID = {"times.name": "uniform", "weighting.name": "simple"}
GONE = {"kid_std"}  # the column of a spread that depended on the subsets; today kid_error
DEPTHS = {"standard", "deeper", "deepest"}  # of the RefineNet, today chosen by the size of images


def diffgen(*words: str) -> str:
    """What the command prints, run in this process."""
    found: Any = importlib.import_module("diffgen.cli")
    if not callable(getattr(found, "main", None)):
        found = importlib.import_module("diffgen.cli.main")
    printed = io.StringIO()
    with redirect_stdout(printed):
        status = found.main(list(words))
    if status:
        raise SystemExit(f"diffgen {' '.join(words)} ended with {status}")
    return printed.getvalue()


def record(path: Path) -> None:
    """Write what this version computes."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder, chdir(folder):
        os.environ["DIFFGEN_CACHE"] = str(Path(folder) / "cache")
        found = {"recipes": recipes(), **trained()}
        print(*sorted(found), sep="\n", file=sys.stderr)
    path.write_text(json.dumps(found, indent=1, sort_keys=True))


def trained() -> dict[str, Any]:
    """Trainings, and what is drawn from them."""
    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        for model in MODELS:
            words = (f"model={model}", f"trainer.precision={precision}", f"runs={precision}")
            run = Path(diffgen("train", *words, *QUICK).splitlines()[-1]).absolute()
            found[f"train {model} {precision}"] = weights(run)
            pictures = sorted((run / "previews").glob("*.png"))
            found[f"previews {model} {precision}"] = [digest(p.read_bytes()) for p in pictures]
            if precision == PRECISIONS[0]:
                os.symlink(run, model)
    here = Path.cwd()
    for model in ("ddpm", "ncsnv2", "edm"):
        for sampler in SAMPLERS:
            found[f"{model} {sampler}"] = drawn(f"checkpoint={here / model}", f"sampler={sampler}")
    found["ncsn langevin"] = drawn(f"checkpoint={here / 'ncsn'}", "sampler=langevin")
    for name, words in (SAMPLINGS | TASKS).items():
        filled = [word.format(**{m: here / m for m in MODELS}) for word in words]
        found[name] = drawn(f"checkpoint={here / 'ddpm'}", *filled)
    diffgen("tune", f"checkpoint={here / 'ddpm'}", "steps=4", "num_samples=4", "candidates=8")
    tuned = next((here / "ddpm" / "tuned").glob("*.yaml"))
    found["tuned times"] = yaml.safe_load(tuned.read_text())["times"]
    found["tuned"] = drawn(f"checkpoint={here / 'ddpm'}", "spacing=tuned", "steps=4")
    metrics = "metrics=[fid,kid,precision,recall,accuracy,fid_per_class,saturation]"
    diffgen("sample", "-m", f"checkpoint={here / 'ddpm'}", *SWEEP, metrics, "accelerator=cpu")
    found["table"] = table(max((here / "runs" / "samples").iterdir()) / "table.csv")
    return found


def weights(run: Path) -> str:
    """A hash of all weights and averages of a run's checkpoint, in order and without names."""
    data = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    states = [data["state_dict"], *data["ema"].values()]
    found = hashlib.sha256()
    for tensor in (tensor for state in states for tensor in state.values()):
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def drawn(*words: str) -> str:
    """A hash of the images of one job."""
    steps = [] if "sampler=rk45" in words else ["steps=6"]  # which chooses its own
    folder = Path(diffgen("sample", *FEW, *steps, *words).splitlines()[-1])
    with np.load(folder / "samples.npz") as arrays:
        return digest(arrays["arr_0"].tobytes())


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a table without what the clock and the names of folders tell."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if v and k not in UNSTABLE} for row in rows]


def recipes() -> dict[str, Any]:
    """The resolved values of every recipe, flattened."""
    package = Path(importlib.import_module("diffgen").__file__ or "").parent
    folders = package / "configs", package.parent / "configs"
    names = sorted(p.stem for f in folders for p in (f / "recipe").glob("*_*.yaml"))
    found = {}
    for name in names:
        model, _, dataset = name.partition("_")
        words = (f"model={model}", f"dataset={dataset}", "--cfg", "job", "--resolve")
        values = yaml.safe_load(diffgen("train", *words))
        found[name] = {k: v for k, v in flattened(values) if k != "cache"}
    return found


def flattened(values: Any, prefix: str = "") -> Any:
    """(dotted key, value) of every leaf that is not null."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.")
        elif value is not None:
            yield prefix + key, value


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def compare(before: Path, after: Path) -> int:
    """Print every difference, and what only the later version has; how many differences."""
    old, new = json.loads(before.read_text()), json.loads(after.read_text())
    earlier, later = old.pop("recipes"), new.pop("recipes")
    for name in earlier:
        named: dict[str, Any] = {str(RENAMED.get(k, k)): v for k, v in earlier[name].items()}
        old[f"recipe {name}"] = renamed(name, named)
        new[f"recipe {name}"] = later.pop(name, None)
    for i, row in enumerate(old.pop("table")):
        old[f"row {i} of the table"] = {k: v for k, v in row.items() if k not in GONE}
    new |= {f"row {i} of the table": row for i, row in enumerate(new.pop("table"))}
    added = {str(key) for name in old for key in only(new.get(name), old[name])}
    print("new keys:", ", ".join(sorted(added)))
    print("new recipes:", ", ".join(sorted(later)))
    differences = {name: told(old.get(name), new.get(name)) for name in sorted({*old, *new})}
    differing = {name: found for name, found in differences.items() if found}
    for name, found in differing.items():
        print(f"{name} differs", *found, sep="\n  ")
    print(f"{len(differences) - len(differing)} of {len(differences)} results are the same")
    return len(differing)


def only(values: Any, others: Any) -> set[str]:
    """The keys of one mapping that another lacks."""
    both = isinstance(values, dict) and isinstance(others, dict)
    return values.keys() - others.keys() if both else set()


def renamed(recipe: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values of an earlier recipe as today's recipes state them."""
    found = {k: v for k, v in values.items() if k not in UNUSED}
    if not recipe.startswith("classifier"):
        found = UNSAID | found
    if found.get("weighting.name") == "edm" and "prediction.sigma_data" in found:
        found["weighting.sigma_data"] = found["prediction.sigma_data"]
    if found.get("network.depth") in DEPTHS:
        found["network.depth"] = "auto"
    return found


def told(old: Any, new: Any) -> list[str]:
    """How two values differ: mappings in the keys of the earlier one."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(key for key in old if old[key] != new.get(key))
        return [f"{key}: {old[key]} -> {new.get(key)}" for key in keys]
    return [] if old == new else [f"{str(old)[:500]} -> {str(new)[:500]}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args()
    if options.action == "record":
        record(options.files[0])
    else:
        raise SystemExit(min(1, compare(*options.files)))
