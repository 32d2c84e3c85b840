"""Objects from names and plain settings, for Hydra's config and a checkpoint's recipe alike.

Nothing read from a file selects code: a name is looked up among the files of a room of this
package, and its settings are checked against the annotations of the class found there. Another
package's class, written `package.module:Class`, needs the user's explicit `trust`.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from diffgen.config.trust import trusted_class
from diffgen.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Choice:
    """A class that the configuration names in a room, and its settings, checked but not built.

    Settings that the training set answers (`measured` of the class) may still be null.
    """

    room: str
    name: str
    settings: Mapping[str, Any]
    cls: type

    def build(self, **context: Any) -> Any:
        """The object; `context` holds what only code knows, such as the number of channels."""
        of = f" for {self.room}={self.name}"
        try:
            return typed(self.cls, self.room, self.settings, of, **context)
        except RuntimeError as error:
            if not re.search("overflow|allocate", str(error)):
                raise
            raise UsageError(
                f"{self.room}={self.name} with these settings is larger than any memory"
            ) from error

    def plain(self) -> dict[str, Any]:
        """As it stands in a configuration."""
        return {"name": self.name, **self.settings}

    def unmeasured(self) -> list[str]:
        """The settings that are null until they are measured in the training set."""
        keys = getattr(self.cls, "measured", ())
        return [key for key in keys if self.settings.get(key) is None]


def choice(room: str, settings: Mapping[str, Any], trust: Collection[str] = ()) -> Choice:
    """The choice that {"name": ..., **settings} describes; UsageError where a value is wrong."""
    given = dict(settings)
    name = given.pop("name", None)
    cls = find(room, name, trust)
    measured = getattr(cls, "measured", ())
    known = {k: v for k, v in given.items() if v is not None or k not in measured}
    known = _known(cls, room, known, f" for {room}={name}")
    _checked(room, cls, known, partly=True)
    empty = {key: None for key in measured if given.get(key) is None}
    return Choice(room, str(name), known | empty, cls)


SHOWN = 200  # characters of a value in a message: a file may hold one of any length
# What the choices of a room are, where other files of it help them.
BASES = {
    "guidance": "diffgen.denoiser.base:Denoiser",
    "network": "torch.nn:Module",
    "sampler": "diffgen.sampler.base:Sampler",
    "schedule": "diffgen.schedule.base:Schedule",
    "task": "diffgen.task.base:Task",
}
# Rooms whose choices stand in one file.
MODULES = {
    "prediction": "diffgen.denoiser.prediction",
    "times": "diffgen.training.times",
    "weighting": "diffgen.training.weighting",
}


def build(
    room: str, settings: Mapping[str, Any], trust: Collection[str] = (), **context: Any
) -> Any:
    """The object that `settings` describes: {"name": file of the room, **arguments of its class}.

    `context` holds the arguments that code supplies, such as the number of channels; those that
    the class does not take are left out. Unknown names, unknown keys and wrong types raise
    UsageError.
    """
    arguments = dict(settings)
    name = arguments.pop("name", None)
    return typed(find(room, name, trust), room, arguments, f" for {room}={name}", **context)


def typed(
    cls: type, where: str, arguments: Mapping[str, Any], of: str = "", **context: Any
) -> Any:
    """An instance of `cls` from settings found under the key `where`, checked by annotation.

    A null under a key that `cls` does not have counts as left out, as recipes of 0.1.0 had them.
    """
    known = inspect.signature(cls).parameters
    arguments = _known(cls, where, arguments, of, context)
    supplied = {key: value for key, value in context.items() if key in known}
    return cls(**_checked(where, cls, {**arguments, **supplied}))


def _known(
    cls: type, where: str, arguments: Mapping[str, Any], of: str, context: Collection[str] = ()
) -> dict[str, Any]:
    """The arguments that `cls` takes from a configuration; UsageError for any other."""
    known = inspect.signature(cls).parameters
    given = {k: value for k, value in arguments.items() if value is not None or k in known}
    for key in given:
        if key not in known or key in context:
            raise UsageError(f"no {where}.{key}{of}{did_you_mean(key, set(known) - set(context))}")
    return given


def changed(thing: object) -> dict[str, Any]:
    """The settings of a dataclass that differ from its defaults; none of anything else."""
    if not is_dataclass(thing):
        return {}
    settings = {field.name: (getattr(thing, field.name), field.default) for field in fields(thing)}
    return {name: value for name, (value, default) in settings.items() if value != default}


def names(room: str) -> list[str]:
    """The names of a room's choices."""
    return [name for name in _files(room) if _class_in(room, name)]


def find(room: str, name: object, trust: Collection[str] = ()) -> type:
    """The class that a room's choice stands for, or a trusted package's `package.module:Class`.

    It is the one public class of the file `name`; or, where choices share a file, the class of
    that name. Files that hold no such class help the others.
    """
    if name is None:
        raise UsageError(f"{room}.name is missing")
    if isinstance(name, str) and ":" in name:
        found = trusted_class(f"{room}={name}", name, trust)
        if not _is_a(room, {name: found}):
            raise UsageError(f"{room}={name} is no {BASES[room].rpartition(':')[2]}")
        return found
    found = _class_in(room, name) if isinstance(name, str) and name in _files(room) else None
    if found is None:
        raise UsageError(f"no {room}={str(name)[:SHOWN]}{did_you_mean(str(name), names(room))}")
    return found


@cache
def _files(room: str) -> dict[str, str]:
    """The module in which each name of a room may be a choice."""
    package = importlib.import_module(MODULES.get(room, f"diffgen.{room}"))
    if not hasattr(package, "__path__"):
        return dict.fromkeys(_classes(package), package.__name__)
    shared: dict[str, str] = getattr(package, "SHARED_FILES", {})
    files = {module.name: module.name for module in pkgutil.iter_modules(package.__path__)}
    return {name: f"{package.__name__}.{file}" for name, file in (shared | files).items()}


def _class_in(room: str, name: str) -> type | None:
    """The class of a choice; None where the file holds none of the room's kind."""
    found = _classes(importlib.import_module(_files(room)[name]))
    if name in found:
        return found[name]
    return next(iter(found.values())) if len(found) == 1 and _is_a(room, found) else None


def _is_a(room: str, classes: Mapping[str, type]) -> bool:
    """Whether classes are of the kind that a room is for."""
    module, _, name = BASES.get(room, "builtins:object").partition(":")
    return all(
        issubclass(cls, getattr(importlib.import_module(module), name)) for cls in classes.values()
    )


def _classes(module: ModuleType) -> dict[str, type]:
    """The public classes of a file by the names that configurations give them: MinSnr, min_snr."""
    found = [value for value in vars(module).values() if _is_public(value, module.__name__)]
    return {re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower(): cls for cls in found}


def _is_public(value: object, module: str) -> bool:
    return (
        inspect.isclass(value)
        and value.__module__ == module
        and not value.__name__.startswith("_")
        and not inspect.isabstract(value)
    )


def _checked(
    room: str, cls: type, arguments: Mapping[str, Any], partly: bool = False
) -> dict[str, Any]:
    """The arguments as the annotations of `cls` read them; UsageError where they cannot.

    `partly`: arguments that are missing are no mistake yet.
    """
    try:
        checked = _arguments_of(cls, frozenset(arguments) if partly else None)(**arguments)
    except ValidationError as error:
        raise UsageError(_one_line(room, error)) from None
    return {key: getattr(checked, key) for key in arguments}


@cache
def _arguments_of(cls: type, given: frozenset[str] | None) -> type[BaseModel]:
    """The arguments of a class as a model of pydantic; those `given` alone where that is said."""
    hints = get_type_hints(cls.__init__ if inspect.isclass(cls) else cls, include_extras=True)
    fields: Any = {
        p.name: (hints[p.name], ... if p.default is p.empty else p.default)
        for p in inspect.signature(cls).parameters.values()
        if given is None or p.name in given
    }
    return create_model(cls.__name__, __config__=_CONFIG, **fields)


def _one_line(room: str, error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in (room, *first["loc"]))
    if first["type"] == "missing":
        return f"{where} is missing"
    return f"{where}={str(first['input'])[:SHOWN]}: {first['msg'][0].lower()}{first['msg'][1:]}"


_CONFIG = ConfigDict(
    arbitrary_types_allowed=True, protected_namespaces=(), revalidate_instances="never"
)
