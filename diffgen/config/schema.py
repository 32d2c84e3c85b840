"""The typed tree of each command: every key once, with its type.

What a key is for stands beside its default in configs/. A key of a group (`dataset`, `sampler`,
...) is typed by the class that the group's choice names.
"""

from collections.abc import Callable, Collection, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from omegaconf import DictConfig
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    create_model,
    model_validator,
)

from diffgen.config.build import Choice, choice, typed
from diffgen.config.parse import complaint, integers, plain
from diffgen.config.parts import (
    Count,
    Devices,
    EvaluateSettings,
    GuidanceSettings,
    Int,
    Named,
    Precision,
    PreviewSettings,
    SamplerSettings,
    Seed,
    TrainerSettings,
)
from diffgen.errors import UsageError

if TYPE_CHECKING:
    from diffgen.config.recipe import Recipe
    from diffgen.training.ema import EmaSettings
    from diffgen.training.optimizer import OptimizerSettings
else:  # they need torch, and a mistake in a line is told without it
    Recipe = EmaSettings = OptimizerSettings = Any

Clip = Literal["auto", "none", "range", "dynamic"]
Labels = str | int | Annotated[list[str | int], Field(min_length=1)]
Part = dict[str, Any]  # of a recipe, which recipe_of reads
Identity = "identity"  # marks the keys that tell two ways of sampling apart


def _trusting(read: Callable[[Any, Collection[str]], Any]) -> BeforeValidator:
    """What reads a group with the packages that the same tree trusts, in pydantic's context."""

    def validate(given: Any, info: ValidationInfo) -> Any:
        return read(given, info.context or ())

    return BeforeValidator(validate)


def _room(room: str) -> BeforeValidator:
    return _trusting(partial(choice, room))


def _part(cls: type, where: str) -> BeforeValidator:
    return BeforeValidator(lambda given: typed(cls, where, given))


def _optimizer(given: Mapping[str, Any]) -> "OptimizerSettings":
    from diffgen.training.optimizer import OptimizerSettings

    return typed(OptimizerSettings, "optimizer", given)


def _averages(given: Mapping[str, Any]) -> "dict[str, EmaSettings]":
    from diffgen.training.ema import EmaSettings

    return {name: typed(EmaSettings, f"ema.{name}", value) for name, value in given.items()}


def _sampler(given: Any, trust: Collection[str] = ()) -> SamplerSettings | None:
    return None if given is None else SamplerSettings.of(given, trust)


def _listed(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


class Settings(BaseModel):
    """Values as they stand: no text for a number, and no key that nobody reads."""

    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

    trust: Annotated[list[str], BeforeValidator(_listed)] = Field(default_factory=list)

    _plain: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def plain(self) -> dict[str, Any]:
        """The configuration itself, plain data, as a checkpoint keeps it.

        Without `trust`, which a file does not ask for itself.
        """
        return {key: value for key, value in self._plain.items() if key != "trust"}

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """The tree of a resolved configuration; UsageError about the first wrong value."""
        try:
            _without_groups(cls).model_validate(given)
            found = cls.model_validate(given, context=_listed(given.get("trust")))
        except ValidationError as error:
            raise complaint(cls, given, error) from None
        found._plain = given | integers(found, given)
        return found

    def replaced(self, **parts: Any) -> Self:
        """The tree with other plain values under some root keys."""
        return self.of({**self._plain, **parts})


@cache
def _without_groups(cls: type[Settings]) -> type[BaseModel]:
    """The tree with its groups as they stand, to find a mistake elsewhere without torch."""
    fields: Any = {}
    for name, field in cls.model_fields.items():
        grouped = any(isinstance(each, BeforeValidator) for each in field.metadata)
        kind: Any = Any if grouped else field.annotation
        for each in () if grouped else field.metadata:
            kind = Annotated[kind, each]
        fields[name] = (kind, ... if field.is_required() else None)
    return create_model(cls.__name__, __config__=cls.model_config, **fields)


class Train(Settings):
    seed: Seed
    runs: str
    cache: str
    compile: bool
    logger: Annotated[Named, BeforeValidator(Named.of)]
    resume: str | None
    init: str | None = None
    init_ema: str | float | None = None
    init_hash: str | None = None
    channels_last: bool
    augment: Annotated[float, Field(ge=0, le=1)] | None = None
    dataset: Annotated[Choice, _room("dataset")]
    model: Part
    prediction: Part | None = None
    times: Part
    weighting: Part | None = None
    schedule: Part
    network: Part
    optimizer: Annotated[OptimizerSettings, BeforeValidator(_optimizer)]
    ema: Annotated[dict[str, EmaSettings], BeforeValidator(_averages)]
    sampler: Annotated[SamplerSettings | None, _trusting(_sampler)] = None
    trainer: Annotated[TrainerSettings, _part(TrainerSettings, "trainer")]
    preview: Annotated[PreviewSettings, _trusting(PreviewSettings.of)]
    evaluate: Annotated[EvaluateSettings, _part(EvaluateSettings, "evaluate")] = EvaluateSettings()

    _recipe: Recipe = PrivateAttr()

    @property
    def recipe(self) -> Recipe:
        """The model, its loss and its network."""
        return self._recipe

    @model_validator(mode="after")
    def _read_recipe(self) -> Self:
        parts = ("model", "prediction", "times", "weighting", "schedule", "network")
        from diffgen.config.recipe import recipe_of
        from diffgen.dataset.augmentation import check_augment_dim

        if self.sampler and self.sampler.choice is None:
            raise UsageError("sampler=own is a checkpoint's: a training names the sampler itself")
        self._recipe = recipe_of({key: getattr(self, key) for key in parts}, self.trust)
        if not self.init:  # else the parts are those of its checkpoint
            self._recipe.check()
        check_augment_dim(self.augment, self.network.get("augment_dim"))
        return self


class Explain(Train):
    checkpoint: str | None
    cost: bool
    num_samples: Count


class Sampling(Settings):
    """What `diffgen sample` and `diffgen tune` share."""

    checkpoint: str
    ema: Annotated[str | float | None, Identity]
    sampler: Annotated[SamplerSettings, _trusting(SamplerSettings.of), Identity]
    guidance: Annotated[GuidanceSettings, _trusting(GuidanceSettings.of), Identity]
    steps: Annotated[Count | None, Identity] = None
    spacing: Annotated[str, Identity] = "auto"
    start: Annotated[str, Identity] = "auto"
    clip: Annotated[Clip, Identity]
    precision: Annotated[Precision, Identity] = "32-true"
    labels: Annotated[Labels, Identity]
    num_samples: Count
    seed: Seed
    accelerator: str
    runs: str
    task: Annotated[Choice, _room("task")] = Field(
        default_factory=partial(choice, "task", {"name": "generate"})
    )
    root: str | None = None
    deterministic: bool = False
    compile: bool = False


class Sample(Sampling):
    batch_size: Count
    n: Annotated[Int, Field(ge=2)] | None
    features: Annotated[Named, BeforeValidator(Named.of)]
    metrics: str | list[str]
    out: str | None = None
    format: Literal["png", "npz"] = "png"
    devices: Devices
    cache: str
    logger: Annotated[Named, BeforeValidator(Named.of)]


class Tune(Sampling):
    candidates: Count


SETTINGS: dict[str, type[Settings]] = {
    "train": Train,
    "explain": Explain,
    "sample": Sample,
    "tune": Tune,
}
_LAST: dict[tuple[str, str], Settings] = {}


def check(command: str, config: DictConfig) -> Any:
    """The tree of a command, the last one kept; UsageError with the first wrong value."""
    given = plain(config)
    if (key := (command, repr(given))) not in _LAST:
        _LAST.clear()
        _LAST[key] = SETTINGS[command].of(given)
    return _LAST[key]
