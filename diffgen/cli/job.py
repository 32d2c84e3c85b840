"""What Hydra calls for one job of a command, in this process or in a launcher's or worker's."""

import contextlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from diffgen.cli.argv import literal, quote
from diffgen.cli.output import complain
from diffgen.cli.registry import Command
from diffgen.config.schema import check
from diffgen.errors import FAILURE_FILE, UsageError
from diffgen.runtime.launch import isolated, register, relaunch

FAILURE_LOG = logging.getLogger("diffgen.failure")  # goes to the run's log file only


OWN = re.compile(  # overrides of Hydra that hold for the first process of a job alone
    r"^[+~]*hydra(\.(mode|run|sweep|launcher|sweeper|output_subdir|job\.name)|/(launcher|sweeper))"
)


class JobFailed(Exception):
    """One line about an exception whose traceback is in the run's log."""


class PastHydra(BaseException):
    """Carries its cause out of Hydra, which makes a warning of an Exception in a callback and
    reports one of a single job in words of its own."""


@contextmanager
def errors_past_hydra() -> Iterator[None]:
    """Lets every error through Hydra."""
    try:
        yield
    except Exception as error:
        raise PastHydra from error


@dataclass
class Job:
    """A picklable task: launchers ship it to other processes.

    `flags` are the flags that a child process needs again; `full_error` is HYDRA_FULL_ERROR as
    the user set it.
    """

    command: Command
    flags: list[str]
    full_error: str | None

    def __post_init__(self) -> None:
        self.__module__ = (
            f"diffgen.{self.command.name}"  # Hydra names the job and its log after it
        )

    def __call__(self, config: DictConfig) -> Any:
        register()
        with full_error(self.full_error):
            try:
                return self.work(config)
            except Exception as error:
                self.fail(error)

    def fail(self, error: Exception) -> NoReturn:
        """Ends a single run at once, and a sweep's job so that the other jobs go on."""
        if not isinstance(error, UsageError):
            FAILURE_LOG.error("the job failed", exc_info=error)
            cause, error = error, JobFailed(describe(error))
            error.__cause__ = cause
        else:
            remove_job_dir()
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            raise PastHydra from error
        line = self.command.message(error) if isinstance(error, UsageError) else str(error)
        note = {"settings": " ".join(HydraConfig.get().overrides.task), "reason": line}
        with contextlib.suppress(OSError):
            _failure().write_text(json.dumps(note))
        complain(f"job {HydraConfig.get().job.num}: {line}")
        raise error

    def work(self, config: DictConfig) -> Any:
        _failure().unlink(missing_ok=True)  # of an earlier call in this folder
        settings = check(self.command.name, config)
        if may_use_several_devices(config):
            pins = pinned(self.command, config)
            settings = check(self.command.name, config)  # its checkpoints are PATH@HASH now
            relaunch(WorkerCommand(self.command.name, self.flags, pins))
        with isolated():
            return resolve_name(self.command.task)(settings)


@dataclass(frozen=True)
class WorkerCommand:
    """Called with a local rank, returns the command line and the working folder of its process.

    The process runs exactly this job of a sweep, in the job's own output folder, on the same
    contents of checkpoints (`pins`).
    """

    command: str
    flags: list[str]
    pins: dict[str, str] = field(default_factory=dict)

    def __call__(self, local_rank: int) -> tuple[list[str], str]:
        job = HydraConfig.get()
        return [
            *(sys.executable, "-m", "diffgen", self.command, *self.flags),
            *with_pins(job.overrides.task, self.pins),
            *(override for override in job.overrides.hydra if not OWN.match(override)),
            f"hydra.run.dir={literal(job.runtime.output_dir)}",
            f"hydra.job.name={job.job.name}-rank{local_rank}",
            "hydra.output_subdir=null",
        ], job.runtime.cwd


def pinned(command: Command, config: DictConfig) -> dict[str, str]:
    """The checkpoints that a config names, by key, as PATH@HASH; it names them so from now on."""
    pin = resolve_name("diffgen.runs.pinned:pinned")
    pins = {}
    for key in command.pins:
        if name := OmegaConf.select(config, key):
            pins[key] = pin(name, Path(config.runs), tuple(config.trust))
            OmegaConf.update(config, key, pins[key])
    return pins


def with_pins(overrides: Sequence[str], pins: Mapping[str, str]) -> list[str]:
    """The overrides of a job with these checkpoints in the place of those that they name."""
    others = [word for word in overrides if word.lstrip("+").partition("=")[0] not in pins]
    return [*others, *(f"{key}={quote(name)}" for key, name in pins.items())]


def _failure() -> Path:
    return Path(HydraConfig.get().runtime.output_dir) / FAILURE_FILE


def may_use_several_devices(config: DictConfig) -> bool:
    """Whether a job may start processes of its own: of all devices there may be one."""
    devices = OmegaConf.select(config, "trainer.devices", default=config.get("devices", 1))
    return devices != 1


def describe(error: Exception) -> str:
    """One line: the exception, and where its traceback stands."""
    job = HydraConfig.get()
    first = (str(error).strip().splitlines() or [""])[0]
    log = Path(job.runtime.output_dir) / f"{job.job.name}.log"
    where = f" (traceback in {log})" if log.is_file() else ""
    return f"{type(error).__name__}: {first}{where}"


@contextmanager
def full_error(value: str | None) -> Iterator[str | None]:
    """Sets HYDRA_FULL_ERROR, or takes it away, and puts it back."""
    before = os.environ.pop("HYDRA_FULL_ERROR", None)
    if value is not None:
        os.environ["HYDRA_FULL_ERROR"] = value
    try:
        yield before
    finally:
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before


def continue_in(folder: Path) -> None:
    """Lets the job's log go on in `folder`, and removes the folder that Hydra made for the job.

    A job of a sweep stays in its own.
    """
    job: Any = HydraConfig.get()
    made = Path(job.runtime.output_dir)
    if job.mode != RunMode.RUN or made.resolve() == folder.resolve():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for handler in _logs(made):
        handler.close()  # it opens its file again when it next has something to write
        handler.baseFilename = str(folder.absolute() / Path(handler.baseFilename).name)
    with read_write(job):
        job.runtime.output_dir = str(folder.absolute())
    _remove(made, job.job.name)


def remove_job_dir() -> None:
    """Removes the folder that Hydra made for a refused job, unless something was put into it."""
    job: Any = HydraConfig.get()
    made, log = Path(job.runtime.output_dir), f"{job.job.name}.log"
    found = {path.name: path.stat().st_size for path in made.glob("*")}
    if job.mode == RunMode.RUN and found.keys() <= {log, ".hydra"} and not found.get(log):
        _remove(made, job.job.name)


def _logs(folder: Path) -> list[logging.FileHandler]:
    """The handlers that write into files of a folder."""
    return [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.FileHandler)
        and Path(handler.baseFilename).parent == folder.absolute()
    ]


def _remove(folder: Path, name: str) -> None:
    """Takes away what Hydra puts into a folder, and it and its parent where that empties them."""
    with contextlib.suppress(OSError):  # another process of the same job may do so, too
        (folder / f"{name}.log").unlink(missing_ok=True)
        shutil.rmtree(folder / ".hydra", ignore_errors=True)
        folder.rmdir()
        folder.parent.rmdir()
