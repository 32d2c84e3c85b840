"""Several processes for one job: their start by Lightning, their ranks and run id, their end."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from omegaconf import OmegaConf

from diffgen.errors import UsageError

GRACE = 10  # seconds in which a process may end in order before it is killed
ASKED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
MEETING = "DIFFGEN_MEETING"  # the folder in which the processes of a job say that they are ready
RANKS = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", MEETING)
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
    return next((_number(name) for name in names if name in os.environ), 0)


def _number(name: str) -> int:
    """A whole number that the environment holds; UsageError where it is none."""
    value = os.environ[name]
    if not value.isdecimal():
        raise UsageError(f"{name}={value!r} of the environment is no number: `unset {name}`")
    return int(value)


def run_id() -> str:
    """The name that all processes of a run share, else the time."""
    return common_id() or datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")


def common_id() -> str | None:
    """DIFFGEN_RUN_ID, else the id that torchrun or srun gives to all ranks; None without them.

    A step of a shell's belongs to the whole session and names no single run.
    """
    env = os.environ
    if named := env.get("DIFFGEN_RUN_ID"):
        if "/" in named or named in (".", ".."):
            raise UsageError(f"DIFFGEN_RUN_ID={named} of the environment is no folder's own name")
        return named
    if (elastic := env.get("TORCHELASTIC_RUN_ID", "none")) != "none":
        return elastic
    if slurm_tasks() > 1 and "SLURM_STEP_ID" in env:
        return f"{env['SLURM_JOB_ID']}.{env['SLURM_STEP_ID']}"
    return None


def slurm_tasks() -> int:
    """How many tasks a step of Slurm has; 1 without Slurm and in an interactive shell.

    Lightning tells such a shell by the same names.
    """
    shell = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return 1 if shell or "SLURM_NTASKS" not in os.environ else _number("SLURM_NTASKS")


def restarted() -> bool:
    """Whether a cluster started this job before, and now again under the same name."""
    counts = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
    return any(os.environ.get(name, "0") != "0" for name in counts)


def in_path(name: str) -> str:
    """The name of a choice as part of a path: `Mine` for a class `package.module:Mine`."""
    return name.rpartition(":")[2]


def register() -> None:
    """Makes `${run_id:}`, one value per config, and `${in_path:name}` known to configs."""
    OmegaConf.register_new_resolver("run_id", run_id, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("in_path", in_path, replace=True)


def relaunch(child: Callable[[int], tuple[list[str], str]]) -> None:
    """Makes Lightning start local rank n by `child(n)`, a command line and its working folder.

    Left alone it repeats this process's whole command line, and with it a whole sweep.
    """
    from lightning.fabric.strategies.launchers import subprocess_script as fabric
    from lightning.pytorch.strategies.launchers import subprocess_script as pytorch

    for module in (fabric, pytorch):
        for name, ours in (
            ("_hydra_subprocess_cmd", child),
            ("_launch_process_observer", _ended_together),
        ):
            if not hasattr(module, name):
                raise RuntimeError("this version of lightning starts its processes in another way")
            setattr(module, name, ours)


_started: list[subprocess.Popen[bytes]] = []  # the other processes of the running job
_lost: list[str] = []  # what became of one of them that ended by itself


class ProcessLost(RuntimeError):
    """Another process of the job ended by itself: the job fails, and other jobs go on."""


def _ended_together(children: "list[subprocess.Popen[bytes]]") -> None:
    """Ends all processes of a job when one of them dies, in order if they can, and says which.

    It returns when all are ready: no signal ends a process that waits to be connected to others.
    """
    _started[:] = children
    threading.Thread(target=_watch, args=(children,), daemon=True).start()
    ready = [Path(os.environ[MEETING], str(n)) for n in range(1, 1 + len(children))]
    while any(not p.exists() and c.poll() != 0 for p, c in zip(ready, children, strict=True)):
        time.sleep(0.05)


def say_ready() -> None:
    """Lets the first process of a job know that this one is about to connect to it."""
    if folder := os.environ.get(MEETING):
        Path(folder, str(rank())).touch()


def _watch(children: "list[subprocess.Popen[bytes]]") -> None:
    """Wait for children; lightning's own watch kills this process without a word."""
    while _started == children and not any(child.poll() for child in children):
        if all(child.poll() == 0 for child in children):
            return
        time.sleep(0.5)
    dead = next((rank for rank, child in enumerate(children, 1) if child.returncode), None)
    if _started != children or dead is None:  # the job has ended
        return
    status = children[dead - 1].returncode
    if {-status, status - 128} & set(ASKED):  # it was told to end, and so this one is
        print(f"diffgen: {_ended(dead, status)}, so that all end now", file=sys.stderr)
    else:
        _lost[:] = [_ended(dead, status)]
    os.kill(os.getpid(), signal.SIGTERM)
    _end(children)
    time.sleep(GRACE)  # a daemon thread: it lives no longer than its process
    if _started == children:
        print(
            f"diffgen: {_ended(dead, status)}, and this one waits for it: it ends now; what is "
            "done is kept, and the same command does the rest",
            file=sys.stderr,
        )
        os.kill(os.getpid(), signal.SIGKILL)


def _ended(number: int, status: int) -> str:
    name = f" ({signal.Signals(-status).name})" if status < 0 else ""
    return f"process {number} of the job ended with status {status}{name}"


def _end(children: "list[subprocess.Popen[bytes]]") -> None:
    """Asks processes to end, and kills those that have not after a while."""
    for child in children:
        if child.poll() is None:
            child.terminate()
    limit = time.monotonic() + GRACE
    for child in children:
        try:
            child.wait(max(0.0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Leaves no process, no process group and no rank to the next job of a sweep.

    ProcessLost where another process of the job ended by itself, which ends this one, too.
    """
    before = {name: os.environ.get(name) for name in RANKS}
    _started.clear()
    _lost.clear()
    meeting = TemporaryDirectory(prefix="diffgen-", ignore_cleanup_errors=True)
    os.environ.setdefault(MEETING, meeting.name)  # another process's, beyond the first
    try:
        yield
    except BaseException as error:
        children, _started[:] = list(_started), []
        if isinstance(error, Exception):  # as of a connection that was lost
            dead = ((n, child.poll() or 0) for n, child in enumerate(children, 1))
            _lost.extend(_ended(n, status) for n, status in dead if status < 0)
        _end(children)
        if _lost and isinstance(error, Exception | SystemExit):
            raise ProcessLost(_lost[0]) from error
        raise
    finally:
        _started.clear()
        meeting.cleanup()
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
