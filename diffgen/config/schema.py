"""The typed tree of each command: every key once, with its type and what it is.

A key of a group (`dataset`, `sampler`, ...) is typed by the class that the group's choice names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from diffgen.config.build import Choice, choice, typed
from diffgen.config.complaint import complaint
from diffgen.config.recipe import Recipe, recipe_of
from diffgen.config.sampler import GuidanceSettings, SamplerSettings
from diffgen.training.ema import Profile
from diffgen.training.optimizer import OptimizerSettings

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what generators of torch and numpy all take
Devices = Literal["auto", -1] | Count | Annotated[list[Natural], Field(min_length=1)]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Clip = Literal["auto", "none", "range", "dynamic"]
Labels = str | int | Annotated[list[str | int], Field(min_length=1)]
Part = dict[str, Any]  # of a recipe, which recipe_of reads
Identity = "identity"  # marks the keys that tell two ways of sampling apart


@dataclass(frozen=True)
class Named:
    """A choice that is no class of a room of this package: a logger, an extractor."""

    name: str
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Named":
        return cls(settings["name"], {k: v for k, v in settings.items() if k != "name"})


@dataclass(frozen=True)
class TrainerSettings:
    """How long and on what a training runs.

    max_steps: steps of the optimiser.
    batch_size: images of a whole step, over all devices and micro-batches.
    precision: 32-true, bf16-mixed or 16-mixed.
    devices: processes, each on a device of its own.
    accelerator: auto, cpu, gpu or another name of Lightning's.
    accumulate: micro-batches that make a step.
    clip: largest norm of the gradient; null for none.
    save_every: steps between two writes of last.ckpt.
    snapshot_every: steps between checkpoints that stay; null keeps none.
    log_every: steps between rows of the log.
    workers: processes that decode images.
    """

    max_steps: PositiveInt
    batch_size: PositiveInt = 128
    precision: Precision = "32-true"
    devices: PositiveInt = 1
    accelerator: str = "auto"
    accumulate: PositiveInt = 1
    clip: PositiveFloat | None = 1.0
    save_every: PositiveInt = 1000
    snapshot_every: PositiveInt | None = None
    log_every: PositiveInt = 50
    workers: NonNegativeInt = 0


@dataclass(frozen=True)
class PreviewSettings:
    """Grids of samples while training.

    sampler: the sampler that draws them.
    every: steps between two grids; 0 draws none.
    num_samples: images of a grid.
    """

    sampler: SamplerSettings | None = None
    every: NonNegativeInt = 1000
    num_samples: PositiveInt = 64

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "PreviewSettings":
        options = dict(settings)
        sampler = options.pop("sampler", None)
        found = SamplerSettings.of(sampler) if sampler else None
        return typed(cls, "preview", {**options, "sampler": found})


def _room(room: str) -> BeforeValidator:
    return BeforeValidator(lambda given: choice(room, given))


def _typed(cls: type, where: str) -> BeforeValidator:
    return BeforeValidator(lambda given: typed(cls, where, given))


def _profiles(given: Mapping[str, Any]) -> dict[str, Profile]:
    return {name: typed(Profile, f"ema.{name}", value) for name, value in given.items()}


class Settings(BaseModel):
    """Values as they stand: no text for a number, and no key that nobody reads."""

    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

    _plain: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def plain(self) -> dict[str, Any]:
        """The configuration itself, plain data, as a checkpoint keeps it."""
        return self._plain

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Self:
        """The tree of a resolved configuration; UsageError about the first wrong value."""
        try:
            found = cls.model_validate(plain)
        except ValidationError as error:
            raise complaint(cls, plain, error) from None
        found._plain = plain
        return found

    def replaced(self, **parts: Any) -> Self:
        """The tree with other plain values under some root keys."""
        return self.of({**self._plain, **parts})


class Common(Settings):
    seed: Seed = Field(description="of weights, batches, noise: the same seed, the same bits")
    runs: str = Field(description="the folder under which runs are written and looked for")
    cache: str = Field(description="the folder of downloads' features and fitted classifiers")
    compile: bool = Field(description="whether torch.compile is used")
    logger: Annotated[Named, BeforeValidator(Named.of)] = Field(description="what else is told")


class Train(Common):
    resume: str | None = Field(
        description="a run's folder, a checkpoint, or auto: the newest alike"
    )
    channels_last: bool = Field(description="memory format of the network, faster on most GPUs")
    dataset: Annotated[Choice, _room("dataset")] = Field(description="what is learned")
    model: Part = Field(description="what a paper fixes besides the other groups")
    prediction: Part | None = Field(default=None, description="what the network's output is")
    times: Part = Field(description="at which times training noises images")
    weighting: Part | None = Field(default=None, description="how errors at these times weigh")
    schedule: Part = Field(description="alpha(t) and sigma(t)")
    network: Part = Field(description="the raw network")
    optimizer: Annotated[OptimizerSettings, _typed(OptimizerSettings, "optimizer")] = Field(
        description="Adam and its learning rate"
    )
    ema: Annotated[dict[str, Profile], BeforeValidator(_profiles)] = Field(
        description="averages of the weights"
    )
    sampler: Annotated[SamplerSettings, BeforeValidator(SamplerSettings.of)] | None = Field(
        default=None, description="the model's own, for `diffgen sample sampler=own`"
    )
    trainer: Annotated[TrainerSettings, _typed(TrainerSettings, "trainer")] = Field(
        description="how long and on what"
    )
    preview: Annotated[PreviewSettings, BeforeValidator(PreviewSettings.of)] = Field(
        description="grids of samples while training"
    )

    _recipe: Recipe = PrivateAttr()

    @property
    def recipe(self) -> Recipe:
        """The model, its loss and its network."""
        return self._recipe

    @model_validator(mode="after")
    def _read_recipe(self) -> Self:
        parts = ("model", "prediction", "times", "weighting", "schedule", "network")
        self._recipe = recipe_of({key: getattr(self, key) for key in parts})
        self._recipe.check()
        return self


class Explain(Train):
    cost: bool = Field(description="whether two training steps and a call are measured")
    num_samples: Count = Field(description="images for which the time of sampling is projected")


class Sampling(Settings):
    """What `diffgen sample` and `diffgen tune` share."""

    checkpoint: str = Field(description="a file, a run's folder, or latest: the newest under runs")
    ema: Annotated[str | None, Identity] = Field(
        description="which weights: a name of the checkpoint's, raw, or null for its average"
    )
    sampler: Annotated[SamplerSettings, BeforeValidator(SamplerSettings.of), Identity] = Field(
        description="how images are drawn; own: as the checkpoint's recipe says"
    )
    guidance: Annotated[GuidanceSettings, BeforeValidator(GuidanceSettings.of), Identity] = Field(
        description="how strongly labels or another model pull"
    )
    steps: Annotated[Count | None, Identity] = Field(
        default=None, description="intervals between times; unless set, the sampler's own number"
    )
    spacing: Annotated[str, Identity] = Field(
        default="auto", description="at which times the sampler stops; tuned: by `diffgen tune`"
    )
    start: Annotated[str, Identity] = Field(
        default="auto", description="the first state: auto, prior, shell or uniform"
    )
    clip: Annotated[Clip, Identity] = Field(
        description="of the estimated image: auto, none, range, dynamic"
    )
    precision: Annotated[Precision, Identity] = Field(
        default="32-true", description="of the network: 32-true, bf16-mixed or 16-mixed"
    )
    labels: Annotated[Labels, Identity] = Field(
        description="balanced, a class, or a list of classes that images take by turns"
    )
    num_samples: Count = Field(description="how many images")
    seed: Seed = Field(description="image i depends on it and on i alone")
    accelerator: str = Field(description="auto, cpu, gpu or another name of Lightning's")
    runs: str = Field(description="the folder under which runs are looked for")
    task: Annotated[Choice, _room("task")] = Field(
        default=Choice("task", "generate", {}), description="what images are made of"
    )
    root: str | None = Field(
        default=None, description="where the data set's files are, if they have moved"
    )
    deterministic: bool = Field(
        default=False, description="the same bytes in any batch and on any number of devices"
    )
    compile: bool = Field(default=False, description="whether torch.compile is used")


class Sample(Sampling):
    batch_size: Count = Field(description="images drawn at once on a device")
    n: Annotated[int, Field(ge=2)] | None = Field(
        description="images that metrics count; null: the smaller of num_samples and held-out"
    )
    features: Annotated[Named, BeforeValidator(Named.of)] = Field(
        description="the network on whose features sets of images are compared"
    )
    metrics: list[str] = Field(description="figures of a row; [] only makes images")
    devices: Devices = Field(description="how many, auto, or a list of their numbers")
    cache: str = Field(description="the folder of features and fitted classifiers")
    logger: Annotated[Named, BeforeValidator(Named.of)] = Field(description="what else is told")


class Tune(Sampling):
    steps: Count = Field(description="of the sampler; heun takes nearly two evaluations a step")
    candidates: Count = Field(description="times among which the search begins")


def identity_keys() -> list[str]:
    """The keys of a sampling command that tell two ways of sampling apart."""
    return [key for key, field in Sampling.model_fields.items() if Identity in field.metadata]


SETTINGS: dict[str, type[Settings]] = {
    "train": Train,
    "explain": Explain,
    "sample": Sample,
    "tune": Tune,
}
