"""The folder of a job: that of the earlier run it goes on with, and none where it is refused."""

import contextlib
import logging
import shutil
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import read_write


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
