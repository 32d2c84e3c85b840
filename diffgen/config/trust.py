"""Classes of other packages, written `package.module:Class`: used where the user trusts them."""

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

from diffgen.errors import UsageError, did_you_mean


def trusted_class(choice: str, name: str, trust: Collection[str]) -> type:
    """The class called `name`; UsageError unless one of the trusted packages defines it.

    trust: packages, modules, or full names. choice: what to call it in an error, such as
    `sampler=mine.samplers:Midpoint`.
    """
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
        raise UsageError(f"{choice} is no class; one outside diffgen is package.module:Class")
    path, _, attribute = name.partition(":")
    if name not in trust and not _within(path, trust):
        package = path.partition(".")[0]
        raise UsageError(
            f"{choice} is code outside diffgen", f"if you trust it, add trust={package}"
        )
    module = _imported(path, choice)
    found = getattr(module, attribute, None)
    if not inspect.isclass(found):
        own = [k for k, v in vars(module).items() if inspect.isclass(v) and k[0] != "_"]
        raise UsageError(f"no class {attribute!r} in {path}{did_you_mean(attribute, own)}")
    if name not in trust and not _within(found.__module__, trust):
        raise UsageError(f"{choice} comes from {found.__module__}, which trust= does not name")
    return found


def _within(module: str, packages: Collection[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def _imported(path: str, choice: str) -> ModuleType:
    """A module of an installed package, of PYTHONPATH or below the working folder."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(path)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and _within(path, [error.name or ""]):
            raise UsageError(
                f"no module {error.name} for {choice}: it is looked for in this folder, in "
                "PYTHONPATH and among installed packages"
            ) from None
        raise UsageError(f"{choice} cannot be imported: {_failure(error)}") from error


def _failure(error: Exception) -> str:
    """An exception of a user's module as one line, with its place."""
    line = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) or not frames:  # which names its place itself
        return line
    return f"{line} ({frames[-1].filename}, line {frames[-1].lineno})"
