"""A run's folder has one writer at a time: a lock that names who holds it."""

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from diffgen.errors import UsageError
from diffgen.files import WriteError, write_text
from diffgen.runtime.launch import rank


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Holds a run's folder; UsageError, which names the holder, where another process does.

    The lock is freed when its process dies, whatever killed it. Ranks beyond the first write
    nothing into the folder, so that they hold nothing.
    """
    if rank():
        yield
        return
    lock, holder = FileLock(folder / ".lock"), folder / ".holder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(
            f"{folder} is being trained by {_named(holder)}; wait until it has ended, or train "
            "elsewhere: resume=null hydra.run.dir=FOLDER"
        ) from None
    except OSError as error:
        raise WriteError(folder / ".lock", error) from error
    try:
        write_text(holder, f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink()
        lock.release()


def _named(holder: Path) -> str:
    with contextlib.suppress(OSError):
        return holder.read_text()
    return "another process"
