"""A composed configuration as plain data, and one line about its first value that does not fit."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from diffgen.errors import UsageError, did_you_mean

RESOLVING = "UsageError raised while resolving interpolation: "  # OmegaConf's words before ours


class UnknownKey(UsageError):
    """A key, with dots, that the tree of a command does not have."""

    def __init__(self, key: str, remedy: str = "") -> None:
        super().__init__(f"no key {key!r}", remedy)
        self.key = key

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.key, self.remedy)


def complaint(
    model: type[BaseModel], given: Mapping[str, Any], error: ValidationError
) -> UsageError:
    """What to raise in the place of pydantic's error; a UsageError within it as it is."""
    first = error.errors()[0]
    if first["type"] == "extra_forbidden":
        key = ".".join(map(str, within(given, first["loc"])))
        return UnknownKey(key, did_you_mean(key, keys_of(model), listed=False).lstrip("; "))
    cause = first.get("ctx", {}).get("error")
    return cause if isinstance(cause, UsageError) else UsageError(line(given, error))


def line(given: Mapping[str, Any], error: ValidationError) -> str:
    """The first complaint as one line: the key as it is typed, the value, what is wanted."""
    first = error.errors()[0]
    path = within(given, first["loc"])
    key = ".".join(map(str, path))
    if first["type"] == "missing":
        return f"{'.'.join(map(str, first['loc']))} is missing"
    wanted = [e["msg"] for e in error.errors() if within(given, e["loc"]) == path]
    several = isinstance(first["input"], str) and "," in first["input"]
    return f"{key}={first['input']}: {' or '.join(dict.fromkeys(wanted))}" + (
        f"; -m {key}={first['input']} runs each" if several else ""
    )


def within(given: Any, location: Sequence[int | str]) -> list[int | str]:
    """The part of a pydantic location that lies in the data; unions add words of their own."""
    path: list[int | str] = []
    for step in location:
        try:
            given = given[step]
        except (KeyError, IndexError, TypeError):
            break
        path.append(step)
    return path


def integers(found: BaseModel, given: Mapping[str, Any]) -> dict[str, int]:
    """The values of root keys that were given as 1e6 and read as the integer 1000000."""
    return {
        key: read
        for key, read in vars(found).items()
        if isinstance(given.get(key), float) and isinstance(read, int)
    }


def keys_of(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every typed key under a model, with dots."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += keys_of(field.annotation, f"{prefix}{name}.")
    return keys


def plain(config: DictConfig) -> dict[str, Any]:
    """The config's own values, resolved, without Hydra's and without those still missing."""
    given = {}
    try:
        for key in map(str, config):
            if key != "hydra" and not OmegaConf.is_missing(config, key):
                node = config[key]
                is_node = OmegaConf.is_config(node)
                given[key] = OmegaConf.to_container(node, resolve=True) if is_node else node
    except OmegaConfBaseException as error:
        raise UsageError(str(error).splitlines()[0].removeprefix(RESOLVING)) from error
    return given
