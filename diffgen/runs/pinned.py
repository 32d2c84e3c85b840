"""Checkpoints named together with their content, which a training may replace at any moment."""

import re
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

from diffgen.errors import UsageError
from diffgen.runs.checkpoint import Checkpoint, opened
from diffgen.runs.locate import locate

PIN = re.compile(r"(.+)@([0-9a-f]{8,64})")  # PATH@HASH


def open_checkpoint(name: str, runs: Path, trust: Collection[str] = ()) -> Checkpoint:
    """The checkpoint meant by `checkpoint=`: as `locate` finds it, or PATH@HASH.

    A file whose content hash does not begin with HASH is refused; content that this process has
    read stays in use even if the file was replaced since.
    """
    pin = PIN.fullmatch(name)
    if not pin or Path(name).exists():
        return opened(locate(name, runs), trust)
    return _of_content(locate(pin[1], runs).resolve(), pin[2], tuple(trust))


def pinned(name: str, runs: Path, trust: Collection[str] = ()) -> str:
    """The checkpoint meant by a name, named so that its content stays the same."""
    if PIN.fullmatch(name) and not Path(name).exists():
        return name
    path = locate(name, runs)
    return f"{path}@{opened(path, trust).hash[:12]}"


@lru_cache(maxsize=4)
def _of_content(path: Path, content: str, trust: tuple[str, ...]) -> Checkpoint:
    found = opened(path, trust)
    if not found.hash.startswith(content):
        raise UsageError(
            f"{path} was replaced: it holds step {found.step} ({found.hash[:12]}), not {content} "
            "any more; sample a copy, or a snapshot, of a training that goes on"
        )
    return found
