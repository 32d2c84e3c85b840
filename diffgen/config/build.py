"""Objects from names and plain settings, for Hydra's config and a checkpoint's recipe alike.

Nothing read from a file selects code: a name is looked up among the files of a room of this
package, and its settings are checked against the annotations of the class found there. Another
package's class, written `package.module:Class`, needs the user's explicit `trust`.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

from diffgen.errors import UsageError, did_you_mean


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

    A null under a key that `cls` does not have counts as left out: so a recipe that puts one
    class in the place of another takes away the keys of that other.
    """
    known = inspect.signature(cls).parameters
    arguments = {k: value for k, value in arguments.items() if value is not None or k in known}
    for key in arguments:
        if key not in known or key in context:
            raise UsageError(f"no {where}.{key}{of}{did_you_mean(key, set(known) - set(context))}")
    supplied = {key: value for key, value in context.items() if key in known}
    return cls(**_checked(where, cls, {**arguments, **supplied}))


def changed(thing: object) -> dict[str, Any]:
    """The settings of a dataclass that differ from its defaults; none of anything else."""
    if not is_dataclass(thing):
        return {}
    settings = {field.name: (getattr(thing, field.name), field.default) for field in fields(thing)}
    return {name: value for name, (value, default) in settings.items() if value != default}


def find(room: str, name: object, trust: Collection[str] = ()) -> type:
    """The one public class of the file `name` in `room`, or a trusted `package.module:Class`.

    Where a room lets choices share a file (its SHARED_FILES), the class is called like the choice.
    """
    if name is None:
        raise UsageError(f"{room}.name is missing")
    if isinstance(name, str) and ":" in name:
        return _foreign(room, name, trust)
    package = importlib.import_module(f"diffgen.{room}")
    shared: dict[str, str] = getattr(package, "SHARED_FILES", {})
    names = [*shared, *(module.name for module in pkgutil.iter_modules(package.__path__))]
    if name not in names:
        raise UsageError(f"no {room}={name}{did_you_mean(str(name), names)}")
    module = importlib.import_module(f"{package.__name__}.{shared.get(str(name), name)}")
    classes = [value for value in vars(module).values() if _is_public(value, module.__name__)]
    if name in shared:
        classes = [cls for cls in classes if cls.__name__.lower() == str(name).replace("_", "")]
    if len(classes) != 1:
        raise UsageError(f"no {room}={name}: that file holds no {room}")
    return classes[0]


def _foreign(room: str, name: str, trust: Collection[str]) -> type:
    if name not in trust:
        raise UsageError(
            f"{room}={name} is code outside diffgen; allow your own with trust=['{name}']"
        )
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _is_public(value: object, module: str) -> bool:
    return (
        inspect.isclass(value)
        and value.__module__ == module
        and not value.__name__.startswith("_")
        and not inspect.isabstract(value)
    )


def _checked(room: str, cls: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the annotations of `cls` read them; UsageError where they cannot."""
    hints = get_type_hints(cls.__init__ if inspect.isclass(cls) else cls, include_extras=True)
    parameters = inspect.signature(cls).parameters.values()
    fields: Any = {
        p.name: (hints[p.name], ... if p.default is p.empty else p.default) for p in parameters
    }
    try:
        checked = create_model(cls.__name__, __config__=_CONFIG, **fields)(**arguments)
    except ValidationError as error:
        raise UsageError(_one_line(room, error)) from None
    return {key: getattr(checked, key) for key in arguments}


def _one_line(room: str, error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in (room, *first["loc"]))
    if first["type"] == "missing":
        return f"{where} is missing"
    return f"{where}={first['input']}: {first['msg'][0].lower()}{first['msg'][1:]}"


_CONFIG = ConfigDict(
    arbitrary_types_allowed=True, protected_namespaces=(), revalidate_instances="never"
)
