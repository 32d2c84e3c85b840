"""A Hydra callback that refuses bad values before a job starts or even its folder is made."""

import os
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from string import Formatter
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from diffgen.cli import sweep
from diffgen.cli.job import errors_past_hydra
from diffgen.cli.recipe_choice import job_with_recipe, needs_own_sweeper, parse
from diffgen.cli.registry import COMMANDS
from diffgen.config.schema import check
from diffgen.errors import UsageError, did_you_mean
from diffgen.runs.locate import locate
from diffgen.runs.torch_file import read
from diffgen.runtime.launch import rank, restarted

CHECKPOINTS = ("checkpoint", "guidance.checkpoint", "model.guides", "resume", "init")

SWEEPS: list[Path] = []


class WholeNumbers(Formatter):
    """Shows whole floats as integers, which they are taken for."""

    def format_field(self, value: Any, format_spec: str) -> str:
        whole = isinstance(value, float) and value.is_integer()
        return super().format_field(int(value) if whole else value, format_spec)


class Preflight(Callback):
    """Checks one command's config, and notes the folder of each sweep that starts."""

    def __init__(self, command: str) -> None:
        self.command = command
        OmegaConf.register_new_resolver("hydra", of_hydra, replace=True)  # in place of Hydra's

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        HydraConfig.instance().set_config(config)  # for ${hydra:...}, which Hydra sets later
        with errors_past_hydra():
            if begin := COMMANDS[self.command].begin:
                print(WholeNumbers().format(begin, config, threads=threads()), flush=True)
            bound_checkpoints(config)
            check(self.command, config)
            if "resume" in config:
                refuse_occupied(Path(config.hydra.run.dir), config.resume)
            make(config, "run")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        loader, command = GlobalHydra.instance().config_loader(), COMMANDS[self.command]
        own = "BasicSweeper" in config.hydra.sweeper._target_
        HydraConfig.instance().set_config(config)
        with errors_past_hydra():
            bound_checkpoints(config)
            plan = sweep.planned(command, config, loader) if own else None
            if plan is None:
                self.check_values(config, loader)
            make(config, "sweep")
            SWEEPS.append(Path(config.hydra.sweep.dir).resolve())
            if plan:
                sweep.start(command, plan, config)
                sweep.use(plan)

    def check_values(self, config: DictConfig, loader: Any) -> None:
        """Check each value of the line, where another sweeper makes the jobs."""
        plain: Any = OmegaConf.to_container(config.hydra, resolve=False)
        overrides = list(plain["overrides"]["task"])
        if needs_own_sweeper(overrides):
            raise UsageError(
                "this sweeper gives its jobs one recipe, but the models or data sets differ; "
                "name it, as recipe=none"
            )
        for job in covering(overrides):
            made = loader.load_sweep_config(config, job_with_recipe(job))
            settings = check(self.command, made)
            if preflight := COMMANDS[self.command].preflight:
                resolve_name(preflight)(settings)


def of_hydra(path: str) -> Any:
    """The value of `${hydra:path}`; UsageError for a key that Hydra does not have."""
    config: Any = HydraConfig.instance().cfg
    found = OmegaConf.select(config, f"hydra.{path}") if config else None
    if found is None and config:
        above, _, key = f"hydra.{path}".rpartition(".")
        keys = list(OmegaConf.select(config, above) or ())
        if key not in keys:
            raise UsageError(f"no hydra.{path}{did_you_mean(key, keys)}")
    return found


def threads() -> str:
    """How many threads compute on processors, as far as it is known before torch is imported."""
    return os.environ.get("OMP_NUM_THREADS") or str(len(os.sched_getaffinity(0)))


def bound_checkpoints(config: DictConfig) -> None:
    """UsageError where a checkpoint asks for more than its size allows, or for code to run.

    It is asked before torch and lightning are imported, which takes seconds.
    """
    named = (OmegaConf.select(config, key) for key in CHECKPOINTS)
    for name in filter(None, named):
        path = None
        with suppress(UsageError):  # what is no checkpoint is told with the other values
            path = locate(str(name), Path(config.runs))
        if path and path.is_file() and path.suffix == ".ckpt":
            read(path, numbers=None)


def refuse_occupied(folder: Path, resume: str | None) -> None:
    """UsageError where a new run would take the folder of another one.

    A job that a cluster starts again finds its own there.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if not last.is_file() or resume == "auto" or rank() or restarted():
        return
    named = Path(resume).resolve() if resume else None
    if named not in (folder.resolve(), last.resolve()):
        raise UsageError(
            f"{folder} holds another run: resume={folder} goes on with it, and "
            "hydra.run.dir=FOLDER names another place"
        )


def make(config: DictConfig, kind: str) -> None:
    """Makes the folder of a job ("run") or a sweep; UsageError where that cannot be."""
    folder, key = config.hydra[kind].dir, f"hydra.{kind}.dir"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        typed = any(each.startswith(f"{key}=") for each in config.hydra.overrides.hydra)
        key, value = (key, folder) if typed else ("runs", config.runs)
        raise UsageError(
            f"cannot write {key}={value} ({error.strerror}); set {key}=FOLDER"
        ) from error


def covering(overrides: list[str]) -> list[list[str]]:
    """Few jobs, in which each value of a discrete sweep stands at least once."""
    columns = [
        sweep.split([override])
        for override in parse(overrides)
        if override.is_discrete_sweep() or not override.is_sweep_override()
    ]
    longest = max(map(len, columns), default=1)
    return [[word for c in columns for word in c[row % len(c)]] for row in range(longest)]
