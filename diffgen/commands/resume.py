"""Continuing a run: its recipe from the checkpoint, a few settings from the command line."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from diffgen.config.schema import Train
from diffgen.dataset.download import offline
from diffgen.errors import UsageError
from diffgen.runs import checkpoint
from diffgen.runs.checkpoint import Checkpoint
from diffgen.runs.locate import locate, newest_first

# What may change between two parts of a run without changing what it computes or means.
FREE = (
    "trainer.max_steps",
    "trainer.devices",
    "trainer.accelerator",
    "trainer.accumulate",
    "trainer.precision",
    "trainer.save_every",
    "trainer.snapshot_every",
    "trainer.ema_snapshots",
    "trainer.log_every",
    "trainer.workers",
    "preview",
    "evaluate",
    "sampler",
    "logger",
    "compile",
    "channels_last",
    "dataset.root",
    "dataset.memory_limit",
    "dataset.on_error",
    "runs",
    "cache",
    "resume",
)

LOCAL = ("csv", "none", "tensorboard")  # loggers that write into the run's folder alone

log = logging.getLogger(__name__)


def resumed(
    settings: Train, overrides: Sequence[str], folder: Path
) -> tuple[Train, Path, Path | None]:
    """(settings, run folder, checkpoint to start from) of a job that Hydra gave `folder`.

    A job whose own folder holds a checkpoint goes on with it: one of a sweep, or of a cluster,
    that is started again. Else `resume=PATH` names a run, and `resume=auto` takes the newest one
    whose recipe this one repeats, those of sweeps too, or starts anew where there is none. A
    setting of the command line that contradicts the recipe is a UsageError.
    """
    config = settings.plain
    if settings.resume == "":
        raise UsageError("resume= names no run; give its folder, a checkpoint, or resume=auto")
    if settings.resume in (None, "auto"):
        found = _own(folder, config, settings.trust)
        if found is None and settings.resume:
            found = _newest_alike(config, settings.trust)
        if found is None:
            return settings, folder, None
    else:
        path = locate(settings.resume, Path(settings.runs))
        found = checkpoint.load(path, settings.trust)
        _check_was_trained(found, settings.resume)
    merged = _inside(found, config, overrides)
    measured = settings.recipe.unmeasured()
    for key in map(key_of, overrides):
        merged = _carried(merged, config, key, measured, found.run)
    log.info("going on with step %d of %s", found.step, found.run)
    _tell_if_finished(found, merged)
    return Train.of({**merged, "trust": settings.trust}), found.run, found.path


def _check_was_trained(found: Checkpoint, resume: str) -> None:
    """UsageError where a file holds no training: of an import, an export, or averages alone."""
    if not {"trainer", "optimizer", "ema", "logger"} <= found.recipe.keys():
        raise UsageError(
            f"{found.path} holds weights and no training to go on with: begin a new run from them "
            f"by model={found.recipe['model']['name']} init={resume} in place of resume="
        )
    raw, *averages = found.states.values()
    if any(not average.keys() <= raw.keys() for average in averages):
        raise UsageError(
            f"{found.path} holds averages alone, as trainer.ema_snapshots= keeps them: "
            f"resume={found.run} goes on with their run"
        )


def _inside(
    found: Checkpoint, config: Mapping[str, Any], overrides: Sequence[str]
) -> Mapping[str, Any]:
    """Its recipe without what is written or sent outside the run's folder: that is as typed now.

    The file may be a stranger's.
    """
    recipe = {**found.recipe, "cache": config["cache"], "runs": config["runs"]}
    logger = recipe["logger"]
    if logger["name"] in LOCAL or any(key_of(word) == "logger" for word in overrides):
        return recipe
    log.warning("its recipe logs by %s: add logger=%s to go on with it", *[logger["name"]] * 2)
    return {**recipe, "logger": config["logger"]}


@contextmanager
def as_typed(settings: Train, overrides: Sequence[str]) -> Iterator[None]:
    """Within it nothing is downloaded for a resumed run, unless the command names its data set."""
    typed = any(key_of(word).split(".")[0] == "dataset" for word in overrides)
    with nullcontext() if typed else offline(), naming(settings.dataset.name):
        yield


@contextmanager
def naming(dataset: str) -> Iterator[None]:
    """Lets remedies about a data set name it first, as a command that resumes must."""
    try:
        yield
    except UsageError as error:
        remedy = re.sub(r"\bdataset\.", f"dataset={dataset} dataset.", error.remedy, count=1)
        raise UsageError(error.what, remedy) from error


def _own(folder: Path, config: Mapping[str, Any], trust: Sequence[str]) -> Checkpoint | None:
    """What an earlier start of this job left in its folder; UsageError where that is another's."""
    path = folder / "checkpoints" / "last.ckpt"
    if not path.is_file():
        return None
    found = checkpoint.load(path, trust)
    if flat_settings(found.recipe) != flat_settings(config):
        raise UsageError(
            f"{folder} holds another run, of other settings; name another folder, as "
            "hydra.run.dir=FOLDER or hydra.sweep.dir=FOLDER"
        )
    return found


def _newest_alike(config: Mapping[str, Any], trust: Sequence[str]) -> Checkpoint | None:
    try:
        paths = newest_first(Path(config["runs"]))
    except UsageError:  # none was trained before
        return None
    for path in paths:
        try:
            if flat_settings(checkpoint.stored(path).recipe) == flat_settings(config):
                return checkpoint.load(path, trust)
        except UsageError as error:
            log.warning("resume=auto leaves out a run: %s", error)
    return None


def _tell_if_finished(found: Checkpoint, recipe: Mapping[str, Any]) -> None:
    most = recipe["trainer"]["max_steps"]
    if found.step >= most:
        log.warning(
            "%s is finished: step %d of %d; give trainer.max_steps= to go on",
            found.run,
            found.step,
            most,
        )


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings, flattened and without nulls, that two parts of one run must share."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if path in FREE:
            continue
        if isinstance(value, dict):
            flat |= flat_settings(value, f"{path}.")
        elif value is not None:
            flat[path] = value
    return flat


def _carried(
    recipe: Mapping[str, Any],
    config: Mapping[str, Any],
    key: str,
    measured: Sequence[str],
    run: Path,
) -> Mapping[str, Any]:
    """The recipe with the command line's value of `key`, where that may change."""
    free = any(key == name or key.startswith(f"{name}.") for name in FREE)
    head, _, rest = key.partition(".")
    if head not in config:  # recipe=, whose values stand under other keys
        return recipe
    if free:
        if not rest:
            return {**recipe, head: config[head]}
        inside = recipe.get(head, config[head])
        return {**recipe, head: _carried_inside(inside, config[head], rest)}
    kept = flat_settings(recipe)
    for path, value in flat_settings({head: config[head]}).items():
        within = path not in measured and (path == key or path.startswith(f"{key}."))
        if key == "dataset" and path != "dataset.name":
            continue  # it is named so that its root can be given; the rest is the recipe's
        if within and kept.get(path) != value:
            reason = (
                "repeats the unbroken one to the bit, and its rate follows from all its steps"
                if path.startswith("optimizer.")
                else "keeps its recipe"
            )
            raise UsageError(
                f"{path}={value} contradicts the checkpoint's {kept.get(path)}; a "
                f"resumed run {reason}: leave it out, or begin a new run from the weights "
                f"by init={run} in place of resume="
            )
    return recipe


def _carried_inside(recipe: Any, config: Any, rest: str) -> Any:
    head, _, deeper = rest.partition(".")
    value = _carried_inside(recipe[head], config[head], deeper) if deeper else config[head]
    return {**recipe, head: value}


def key_of(override: str) -> str:
    """`+network@network.width=3` -> `network.width`, as the composed configuration names it."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")
