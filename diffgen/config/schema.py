"""The keys of each command at the root of its config, with their types.

What stands inside a room (`dataset`, `sampler`, ...) is checked where the room is built.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffgen.errors import UsageError, did_you_mean

Room = dict[str, Any]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what generators of torch and numpy all take
Devices = Literal["auto", -1] | Count | Annotated[list[Natural], Field(min_length=1)]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


class Settings(BaseModel):
    """Values as they stand: no text for a number, and no key that nobody reads."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Common(Settings):
    seed: Seed
    runs: str
    cache: str
    compile: bool
    logger: Room


class Train(Common):
    resume: str | None
    channels_last: bool
    dataset: Room
    model: Room
    schedule: Room
    network: Room
    optimizer: Room
    ema: dict[str, Room]
    sampler: Room | None = None  # that of models that make images
    trainer: Room
    preview: Room


class Explain(Train):
    cost: bool
    num_samples: Count


class Guidance(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    weight: float | None = None


class Sample(Common):
    checkpoint: str
    ema: str | None
    sampler: Room
    steps: Count | None = None
    start: str
    spacing: str
    clip: Literal["auto", "none", "range", "dynamic"]
    guidance: Guidance
    task: Room
    labels: str | int | Annotated[list[str | int], Field(min_length=1)]
    num_samples: Count
    batch_size: Count
    root: str | None
    n: Annotated[int, Field(ge=2)] | None
    features: Room
    metrics: list[str]
    devices: Devices
    accelerator: str
    precision: Precision
    deterministic: bool


class Tune(Settings):
    checkpoint: str
    ema: str | None
    sampler: Room
    steps: Count
    guidance: Guidance
    clip: Literal["auto", "none", "range", "dynamic"]
    seed: Seed
    labels: str | int | Annotated[list[str | int], Field(min_length=1)]
    num_samples: Count
    candidates: Count
    accelerator: str
    runs: str


SETTINGS: dict[str, type[Settings]] = {
    "train": Train,
    "explain": Explain,
    "sample": Sample,
    "tune": Tune,
}


def check(command: str, config: DictConfig) -> dict[str, Any]:
    """A composed config as plain data; UsageError with the first wrong value and what fits."""
    given = plain(config)
    try:
        SETTINGS[command].model_validate(given)
    except ValidationError as error:
        raise UsageError(line(SETTINGS[command], given, error)) from error
    return given


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
        raise UsageError(str(error).splitlines()[0]) from error
    return given


def line(model: type[Settings], given: Mapping[str, Any], error: ValidationError) -> str:
    """The first complaint as one line: the key as it is typed, the value, what is wanted."""
    first = error.errors()[0]
    path = within(given, first["loc"])
    key = ".".join(map(str, path))
    if first["type"] == "extra_forbidden":
        return f"no key {key!r}{did_you_mean(key, keys_of(model), listed=False)}"
    if first["type"] == "missing":
        return f"{'.'.join(map(str, first['loc']))} is missing"
    wanted = [e["msg"] for e in error.errors() if within(given, e["loc"]) == path]
    return f"{key}={first['input']}: {' or '.join(dict.fromkeys(wanted))}"


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


def keys_of(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every typed key under a model, with dots."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += keys_of(field.annotation, f"{prefix}{name}.")
    return keys
