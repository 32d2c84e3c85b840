"""A Hydra callback that refuses bad values before a job starts or even its folder is made."""

from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from diffgen.cli.job import errors_past_hydra
from diffgen.cli.recipe_choice import SPLIT, job_with_recipe, needs_own_sweeper, parse
from diffgen.cli.registry import COMMANDS, imported
from diffgen.config.schema import check
from diffgen.errors import UsageError

SWEEPS: list[Path] = []


class Preflight(Callback):
    """Checks one command's config, and notes the folder of each sweep that starts."""

    def __init__(self, command: str) -> None:
        self.command = command

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        with errors_past_hydra():
            check(self.command, config)
            make(config.hydra.run.dir, config.runs)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        loader = GlobalHydra.instance().config_loader()
        overrides = list(config.hydra.overrides.task)
        with errors_past_hydra():
            jobs = [job_with_recipe(job) for job in covering(overrides)]
            if (
                needs_own_sweeper(overrides)
                and "BasicSweeper" not in config.hydra.sweeper._target_
            ):
                raise UsageError(
                    "this sweeper gives its jobs one recipe, but the models or data sets differ; "
                    "name it, as recipe=none"
                )
            configs = [check(self.command, loader.load_sweep_config(config, job)) for job in jobs]
            if preflight := COMMANDS[self.command].preflight:
                for settings in configs:
                    imported(preflight)(settings)
            make(config.hydra.sweep.dir, config.runs)
        SWEEPS.append(Path(config.hydra.sweep.dir).resolve())


def make(folder: str, runs: str) -> None:
    """Makes the folder of a job or a sweep; UsageError where that cannot be."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write runs={runs} ({error.strerror}); set runs=FOLDER"
        ) from error


def covering(overrides: list[str]) -> list[list[str]]:
    """Few jobs of a sweep, in which each of its values stands at least once.

    Root values are checked one by one, so that a product of lists needs no more than the longest.
    """
    columns = [SPLIT([override], None)[0] for override in parse(overrides)]
    longest = max(map(len, columns), default=1)
    return [[column[row % len(column)][0] for column in columns] for row in range(longest)]
