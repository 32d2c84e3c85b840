"""The devices and processes that a job computes on; refused where this machine has none."""

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException

from diffgen.errors import UsageError
from diffgen.runtime.launch import slurm_tasks


def fabric_of(settings: Mapping[str, Any], within: str = "") -> Fabric:
    """Lightning's Fabric for the keys accelerator, devices and precision found under `within`.

    No process is started. UsageError where this machine has no such devices, or none that
    compute in this precision.
    """
    accelerator, devices = settings["accelerator"], settings["devices"]
    _check_slurm(devices, within)
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            strategy=strategy_of(devices),
            precision=settings["precision"],
        )
    except (MisconfigurationException, ImportError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".!")
        raise UsageError(
            f"no {within}accelerator={accelerator} with {within}devices={devices} here "
            f"({reason}); set {within}accelerator=auto {within}devices=1"
        ) from error
    if fabric.device.type == "cpu":
        _check_processors(devices, settings["precision"], within)
    return fabric


@cache
def fabric_to_ask(accelerator: str, devices: str, precision: str) -> Fabric:
    """As `fabric_of`, made once for all jobs of a sweep that launch nothing."""
    wanted = yaml.safe_load(devices)
    return fabric_of({"accelerator": accelerator, "devices": wanted, "precision": precision})


def strategy_of(devices: Any) -> str:
    """Lightning's name for how these devices share a job."""
    return "auto" if devices in (1, "auto") else "ddp"


def _check_slurm(devices: Any, within: str) -> None:
    """UsageError where Slurm's tasks are not one for each device of one node."""
    tasks, env = slurm_tasks(), os.environ
    if tasks == 1:
        return
    if "SLURM_STEP_ID" not in env:
        raise UsageError(
            f"Slurm gave this job {tasks} tasks, and this is one process: start it by `srun` with "
            f"{within}devices={tasks} and --ntasks-per-node={tasks}, or ask for one task (and "
            "--cpus-per-task for more processors), or `unset SLURM_NTASKS`"
        )
    if int(env.get("SLURM_NNODES", "1")) > 1:
        raise UsageError("diffgen computes on one node: ask Slurm for --nodes=1")
    if devices != tasks:
        raise UsageError(
            f"srun starts {tasks} tasks, but {within}devices={devices}: set "
            f"{within}devices={tasks}, or start one task (srun --ntasks=1)"
        )
    env.setdefault("SLURM_NTASKS_PER_NODE", str(tasks))  # of one node, which Lightning asks for


def _check_processors(devices: int | str, precision: str, within: str) -> None:
    most = max(2, os.cpu_count() or 1)  # two on one core still show whether several agree
    if isinstance(devices, int) and devices > most:
        raise UsageError(
            f"{within}devices={devices} is more processes than the {most} that this machine's "
            "processors can run at once; set fewer"
        )
    if precision == "16-mixed":
        raise UsageError(
            f"{within}precision=16-mixed needs a GPU; set {within}precision=bf16-mixed, which "
            "processors compute in, too"
        )
