"""A composed command: Hydra around a task, and one line with an exit status for each failure."""

import logging
import os
import shlex
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from types import FrameType

import hydra

from diffgen.cli import preflight_callback
from diffgen.cli.argv import parse
from diffgen.cli.config_files import config_dir
from diffgen.cli.help import text
from diffgen.cli.job import Job, PastHydra, full_error
from diffgen.cli.output import complain
from diffgen.cli.recipe_choice import Recipes, recipe_per_job, recipes
from diffgen.cli.recipe_choice import parse as parse_overrides
from diffgen.cli.registry import Command
from diffgen.cli.sweep import own_sweeper, same_folder
from diffgen.errors import refuse
from diffgen.runtime.launch import common_id, rank, register


def run(command: Command, words: list[str]) -> int:
    """Exit status of a composed command with the words after its name."""
    args, words = parse(words)
    if args.flags or (args.loose and not args.help):
        from diffgen.cli.mistaken_line import no_flag, no_value

        refuse((no_flag if args.flags else no_value)(args, command.name))
    found = recipes(command.name, args)
    named = list(args.overrides)
    refuse_lists_of_choices(found, named)
    args.overrides, words = found.added(named), [*words, *found.of(named)]
    asked = os.environ.get("HYDRA_FULL_ERROR")
    logging.raiseExceptions = False  # do not report a log that cannot be written
    job = Job(command, config_flags(args), asked)
    try:
        # With it, Hydra raises what went wrong instead of printing pages and exiting.
        with (
            full_error("1"),
            own_folder_of_rank() as folder,
            sys_argv([sys.argv[0], *words, *folder]),
            sigterm_exits(),
            first_rank_prints(),
        ):
            if args.help:
                print(text(command, args))
            else:
                with recipe_per_job(found, named), own_sweeper():
                    run_with_hydra(command, job)
    except SystemExit as stop:
        # Lightning answers Ctrl-C with an exit status of its own.
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except BrokenPipeError:
        raise
    except (Exception, PastHydra) as carried:
        error = carried.__cause__ if isinstance(carried, PastHydra) else carried
        if asked == "1" or not isinstance(error, Exception):
            raise
        from diffgen.cli.error_message import explain

        status, line = explain(error, command, args)
        complain(line)
        return status
    return 0


def refuse_lists_of_choices(found: Recipes, overrides: list[str]) -> None:
    """UsageError where a group is given a list."""
    for override in parse_overrides(overrides):
        key = override.key_or_group
        group = key in found.defaults or any((folder / key).is_dir() for folder in found.folders)
        if group and isinstance(override.value(), list):
            refuse(f"{key}= takes one choice; -m {key}=A,B runs both")


def run_with_hydra(command: Command, job: Job) -> None:
    """Lets Hydra compose the config and run the job or the sweep, then finishes the sweep.

    A sweep that failed is finished, too; its own error takes priority over one from finishing.
    """
    register()
    decorate = hydra.main(version_base="1.3", config_path=config_dir(), config_name=command.name)
    preflight_callback.SWEEPS.clear()
    try:
        decorate(job)()
    except BaseException as stop:
        try:
            finish_sweeps(command)
        except Exception as error:
            complain(f"nothing collected of the sweep: {error}")
        stopped = isinstance(stop, KeyboardInterrupt | SystemExit)
        if stopped and preflight_callback.SWEEPS and rank() == 0:
            folder = same_folder(command, preflight_callback.SWEEPS[0])
            words = shlex.join(["diffgen", command.name, *sys.argv[1:], *folder])
            with suppress(OSError):
                print(f"diffgen: what is done is kept; go on with: {words}", file=sys.stderr)
        raise
    finish_sweeps(command)


def finish_sweeps(command: Command) -> None:
    """Hands the folders of the sweeps that ran to the command, on one rank."""
    if command.finish and rank() == 0:
        for folder in preflight_callback.SWEEPS:
            resolve_name(command.finish)(folder)


def config_flags(args: Namespace) -> list[str]:
    """The flags that say where configs are looked for, for processes that compose them again."""
    given = (("--config-dir", args.config_dir), ("--config-name", args.config_name))
    return [word for flag, value in given if value for word in (flag, value)]


@contextmanager
def sys_argv(words: list[str]) -> Iterator[None]:
    """Lets Hydra, which reads sys.argv, see these words."""
    before, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def first_rank_prints() -> Iterator[None]:
    """Discards the standard output of all processes of a run but the first."""
    if rank() == 0:
        yield
        return
    with open(os.devnull, "w") as discarded, redirect_stdout(discarded):
        yield


@contextmanager
def own_folder_of_rank() -> Iterator[list[str]]:
    """Words that give a rank beyond the first a folder for its log which goes when it ends.

    Where the processes of a run share a name, they share its folder, and there are no words.
    """
    if rank() == 0 or common_id() or "LOCAL_RANK" in os.environ:
        yield []
        return
    with TemporaryDirectory(prefix="diffgen-rank") as folder:
        yield [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Makes SIGTERM end this process in order, with exit status 143."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def terminate(number: int, _: FrameType | None) -> None:
    with suppress(OSError, RuntimeError):  # nobody reads, or it strikes while a line is written
        print(f"diffgen: stopped by {signal.Signals(number).name}", file=sys.stderr)
    raise SystemExit(128 + number)
