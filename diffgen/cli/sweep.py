"""A sweep by Hydra's own sweeper: every job is known, and checked, before the first one starts."""

import copy
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from diffgen.cli.argv import quote
from diffgen.cli.job import JobFailed, pinned, with_pins
from diffgen.cli.output import complain
from diffgen.cli.recipe_choice import job_with_recipe
from diffgen.cli.registry import Command
from diffgen.config.schema import check
from diffgen.errors import UsageError

NUMBER = re.compile(r"\$\\?{hydra\\?:job\.num\\?}")  # Hydra writes it with backslashes


@dataclass
class Plan:
    """The overrides of each job that is left to do, and its settings; `done` need nothing more."""

    jobs: list[list[str]]
    settings: list[Any]
    title: str
    again: str = "the same command"  # does what is left
    done: int = 0

    @property
    def total(self) -> int:
        return self.done + len(self.jobs)


class Composer:
    """Composes the configs of jobs as Hydra does; jobs of the same choices share the work."""

    def __init__(self, loader: ConfigLoaderImpl, config: DictConfig) -> None:
        self.loader, self.config = loader, config
        self.parser = OverridesParser.create(loader)
        self.made: dict[tuple[str, ...], DictConfig] = {}
        self.parsed = cache(lambda word: self.parser.parse_override(word))

    def __call__(self, job: Sequence[str]) -> DictConfig:
        """The config of one job without Hydra's own part."""
        words = [self.parsed(word) for word in job]
        choices = tuple(str(word.input_line) for word in words if self.chooses(word))
        if choices not in self.made:
            made = self.loader.load_sweep_config(self.config, list(choices))
            with open_dict(made):
                del made["hydra"]
            self.made[choices] = made
        config = copy.deepcopy(self.made[choices])
        values = [w for w in words if not self.chooses(w) and not w.is_hydra_override()]
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        return config

    def chooses(self, word: Override) -> bool:
        """Whether an override names a choice of a group, and no value."""
        if isinstance(word.value(), dict) or not self.loader.repository.group_exists(
            word.key_or_group
        ):
            return False
        node = OmegaConf.select(self.config, word.key_or_group, throw_on_missing=False)
        return node is None or OmegaConf.is_dict(node)


def planned(command: Command, config: DictConfig, loader: Any) -> Plan:
    """The jobs of a sweep, each with its recipe and with the content of the files that it names.

    UsageError for the first one that would fail.
    """
    words = words_of(config)
    overrides = OverridesParser.create(loader).parse_overrides(words)
    compose = Composer(loader, config)
    jobs = split(overrides)
    made = [compose(job) for job in jobs]
    for k in _covering(jobs):  # mistakes are told before any checkpoint is read
        check(command.name, made[k])
    found: list[Any] = []
    if command.apart:
        set_apart(command.apart, jobs, made)
    for k, job in enumerate(jobs):
        if command.pins:
            jobs[k] = with_pins(job, pinned(command, made[k]))
        found.append(check(command.name, made[k]))
        if command.preflight:
            resolve_name(command.preflight)(found[k])
    varied = [f"{o.key_or_group} {n}" for o in overrides if (n := _count(o)) > 1]
    words = map(shlex.quote, same_folder(command, config.hydra.sweep.dir))
    again = " with ".join(["the same command", *words])
    return Plan(jobs, found, " x ".join(varied), again)


def same_folder(command: Command, folder: str | Path) -> list[str]:
    """What to add to a sweep's words so that they go on with it, where its jobs are not kept."""
    named = command.kept or any(word.startswith("hydra.sweep.dir=") for word in sys.argv)
    return [] if named else [f"hydra.sweep.dir={quote(str(folder))}"]


def set_apart(key: str, jobs: list[list[str]], made: Sequence[DictConfig]) -> None:
    """Give jobs whose config has one path under `key` a path below it, called by their words."""
    named: dict[str, list[int]] = {}
    for k, config in enumerate(made):
        if path := OmegaConf.select(config, key):
            named.setdefault(str(path), []).append(k)
    for path, numbers in named.items():
        same = set.intersection(*(set(jobs[k]) for k in numbers))
        for k in numbers if len(numbers) > 1 else ():
            words = ",".join(word for word in jobs[k] if word not in same)
            place = f"{path}/{re.sub(r'[^a-zA-Z0-9_.=,+-]+', '-', words)[-200:] or 'all'}"
            jobs[k] = with_pins(jobs[k], {key: place})
            OmegaConf.update(made[k], key, place)


def words_of(config: DictConfig) -> list[str]:
    """The overrides of a sweep as they were typed: ${seed} means each job's own."""
    plain: Any = OmegaConf.to_container(config.hydra, resolve=False)
    params = plain["sweeper"].get("params") or {}
    return [*(f"{k}={v}" for k, v in params.items()), *plain["overrides"]["task"]]


def split(overrides: list[Override]) -> list[list[str]]:
    """The overrides of each job; UsageError for a range without a list of values."""
    try:
        (jobs,) = BasicSweeper.split_arguments(overrides, None)
    except HydraException as error:
        wrong = next(o for o in overrides if o.is_sweep_override() and not o.is_discrete_sweep())
        raise UsageError(
            f"{wrong.input_line} names no values: list them, as {wrong.key_or_group}=1,2, or "
            "give range(first,last,step)"
        ) from error
    # Jobs that are left out when a sweep goes on would give the others other numbers.
    numbered = ([NUMBER.sub(str(k), word) for word in job] for k, job in enumerate(jobs))
    return [job_with_recipe(job) for job in numbered]


def _covering(jobs: Sequence[Sequence[str]]) -> list[int]:
    """The numbers of jobs in which each word of any job stands at least once."""
    seen: set[str] = set()
    found = []
    for k, job in enumerate(jobs):
        if not seen.issuperset(job):
            found.append(k)
            seen.update(job)
    return found


def _count(override: Override) -> int:
    return len(list(override.sweep_string_iterator())) if override.is_sweep_override() else 1


def start(command: Command, plan: Plan, config: DictConfig) -> None:
    """Say what is to do, and leave out the jobs that earlier sweeps have done."""
    folder, total = Path(config.hydra.sweep.dir), plan.total
    title = f" ({plan.title})" if plan.title else ""
    complain(f"{total} {'job' if total == 1 else 'jobs'}{title} into {folder}")
    local = "BasicLauncher" in config.hydra.launcher._target_
    if command.kept and local:
        kept = resolve_name(command.kept)
        left = []
        for job, settings in zip(plan.jobs, plan.settings, strict=True):
            if kept(settings, folder / str(plan.done)):
                plan.done += 1
            else:
                left.append((job, settings))
        plan.jobs, plan.settings = [job for job, _ in left], [each for _, each in left]
    if plan.done:
        complain(f"{plan.done} of {total} jobs are done already, {len(plan.jobs)} are left")


_plan: Plan | None = None  # of the running sweep


def use(plan: Plan) -> None:
    """Let the sweeper run this plan."""
    global _plan
    _plan = plan


def _sweep(self: Any, arguments: list[str]) -> list[Sequence[JobReturn]]:
    """Launch the planned jobs in batches; all of them, whichever fail."""
    plan = _plan
    assert plan is not None
    OmegaConf.save(self.config, Path(self.config.hydra.sweep.dir) / "multirun.yaml")
    size = self.max_batch_size or max(1, len(plan.jobs))
    returns = []
    for first in range(0, len(plan.jobs), size):
        batch = plan.jobs[first : first + size]
        returns.append(self.launcher.launch(batch, initial_job_idx=plan.done + first))
    failed = [job for batch in returns for job in batch if job.status == JobStatus.FAILED]
    if failed:
        raise JobFailed(
            f"{len(failed)} of {plan.total} jobs failed, the first one with: "
            f"{failed[0]._return_value}; {plan.again} does them again"
        )
    return returns


@contextmanager
def own_sweeper() -> Iterator[None]:
    """Makes Hydra's sweeper launch what was planned, without composing it once more before."""
    Plugins.instance()  # which imports the module of the sweeper once more
    sweeper: Any = import_module(BasicSweeper.__module__).BasicSweeper
    before, sweeper.sweep = sweeper.sweep, _sweep
    try:
        yield
    finally:
        sweeper.sweep = before
