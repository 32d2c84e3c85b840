"""Several processes for one job: their start by Lightning, their ranks and run id, their end."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime

from omegaconf import OmegaConf

RANKS = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
IGNORED_WARNINGS = (
    "Experiment logs directory",  # the run's folder, which Hydra made
    ".*LeafSpec",
    "The number of training batches",
    ".*all_gather is deprecated",
    ".*AMP with fp16 is not supported on CPU",  # which is refused in our words
)


def rank() -> int:
    """The number of this process among those of its run, 0 where it is alone."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # torchrun, Lightning, srun
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


def run_id() -> str:
    """DIFFGEN_RUN_ID, else the id that torchrun or srun gives to all ranks, else the time."""
    env = os.environ
    if named := env.get("DIFFGEN_RUN_ID"):
        return named
    if (elastic := env.get("TORCHELASTIC_RUN_ID", "none")) != "none":
        return elastic
    if int(env.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_ID" in env:
        return f"{env['SLURM_JOB_ID']}.{env['SLURM_STEP_ID']}"
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")


def register() -> None:
    """Makes `${run_id:}` known to configs, with one value per config."""
    OmegaConf.register_new_resolver("run_id", run_id, use_cache=True, replace=True)


def relaunch(child: Callable[[int], tuple[list[str], str]]) -> None:
    """Makes Lightning start local rank n by `child(n)`, a command line and its working folder.

    Left alone it repeats this process's whole command line, and with it a whole sweep.
    """
    from lightning.fabric.strategies.launchers import subprocess_script as fabric
    from lightning.pytorch.strategies.launchers import subprocess_script as pytorch

    for module in (fabric, pytorch):
        if not hasattr(module, "_hydra_subprocess_cmd"):
            raise RuntimeError("this version of lightning starts its processes in another way")
        setattr(module, "_hydra_subprocess_cmd", child)  # noqa: B010 (private, so unknown to types)


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Leaves no process group and no rank in the environment to the next job of a sweep."""
    before = {name: os.environ.get(name) for name in RANKS}
    try:
        yield
    finally:
        distributed = sys.modules.get("torch.distributed")
        if distributed and distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def quiet() -> None:
    """Leaves Lightning's messages to the logging of the run, and ignores expected warnings."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers = [h for h in logger.handlers if type(h) is not logging.StreamHandler]
        logger.propagate = logger.propagate or not logger.handlers
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message)
