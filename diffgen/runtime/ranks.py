"""Several processes of one run: the rank of this one, and a run id on which all agree."""

import os
from datetime import datetime

from omegaconf import OmegaConf


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
