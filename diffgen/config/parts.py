"""The typed parts of a tree whose keys are not those of a class that they build."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, WrapValidator

from diffgen.config.build import Choice, choice, typed
from diffgen.errors import UsageError

if TYPE_CHECKING:
    from diffgen.sampler import Sampler


def _whole(given: Any, check: Callable[[Any], int]) -> int:
    return check(int(given) if isinstance(given, float) and given.is_integer() else given)


Int = Annotated[int, WrapValidator(_whole)]  # 1e6 is 1000000
Count = Annotated[Int, Field(ge=1)]
Natural = Annotated[Int, Field(ge=0)]
Seed = Annotated[Int, Field(ge=0, lt=2**63)]  # what generators of torch and numpy all take
Devices = Literal["auto", -1] | Count | Annotated[list[Natural], Field(min_length=1)]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

OWN = "own"  # the sampler that a checkpoint's recipe names


@dataclass(frozen=True)
class SamplerSettings:
    """A sampler and its number of steps; `choice` None means the checkpoint's own.

    steps: None where the sampler takes every training level or chooses its own. spacing: what
    spacing=auto means, where a preset of the sampler says so.
    """

    choice: Choice | None
    steps: int | None
    spacing: str = "auto"

    @classmethod
    def of(cls, settings: Mapping[str, Any], trust: Collection[str] = ()) -> "SamplerSettings":
        """From {"name": ..., "steps": ..., "spacing": ..., **settings of the sampler}."""
        options = dict(settings)
        steps, spacing = options.pop("steps", None), options.pop("spacing", "auto")
        if options.get("name") == OWN:
            typed(_Own, "sampler", {k: v for k, v in options.items() if k != "name"})
            return cls(None, steps)
        return cls(choice("sampler", options, trust), steps, spacing)

    def resolved(
        self, recipe: Mapping[str, Any], trust: Collection[str] = ()
    ) -> "SamplerSettings":
        """The same where a sampler is named, else the one that a checkpoint's recipe names."""
        if self.choice is not None:
            return self
        if not recipe.get("sampler"):
            raise UsageError(
                "sampler=own: this checkpoint's recipe names no sampler; take one by its name, "
                "such as sampler=ddim"
            )
        own = SamplerSettings.of(recipe["sampler"], trust)
        return SamplerSettings(own.choice, self.steps or own.steps, own.spacing)

    @property
    def name(self) -> str:
        """As it is typed."""
        return OWN if self.choice is None else self.choice.name

    def build(self) -> "Sampler":
        """The sampler, which knows no steps."""
        if self.choice is None:
            raise UsageError("sampler=own needs a checkpoint, whose recipe names it")
        return self.choice.build()


@dataclass(frozen=True)
class _Own:
    """`sampler=own` has no settings: they are the recipe's."""


@dataclass(frozen=True)
class GuidanceSettings:
    """A guidance, and what only code can make of its settings.

    given: as they stand in the configuration.
    checkpoint: of the model that guides, None where none is needed.
    classifier_free: weight of classifier-free guidance beneath another one.
    """

    given: Mapping[str, Any]
    choice: Choice
    checkpoint: str | None
    classifier_free: float

    @classmethod
    def of(cls, settings: Mapping[str, Any], trust: Collection[str] = ()) -> "GuidanceSettings":
        """From {"name": ..., **settings}."""
        options = dict(settings)
        name = options.pop("checkpoint", None)
        below = typed(_Below, "guidance", {"classifier_free": options.pop("classifier_free", 0)})
        checkpoint = None if name in (None, "???") else str(name)
        chosen = choice("guidance", options, trust)
        return cls(settings, chosen, checkpoint, below.classifier_free)

    @property
    def name(self) -> str:
        return self.choice.name

    @property
    def weight(self) -> float | None:
        """w of (1 + w) D(x, c) - w D(x, null); None where the guidance has none."""
        return self.choice.settings.get("weight")


@dataclass(frozen=True)
class _Below:
    classifier_free: float = 0.0


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
    ema_snapshots: files of the averages by relative width over the run; 0 keeps none.
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
    ema_snapshots: NonNegativeInt = 16
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
    def of(cls, settings: Mapping[str, Any], trust: Collection[str] = ()) -> "PreviewSettings":
        options = dict(settings)
        sampler = options.pop("sampler", None)
        found = SamplerSettings.of(sampler, trust) if sampler else None
        return typed(cls, "preview", {**options, "sampler": found})


@dataclass(frozen=True)
class EvaluateSettings:
    """Figures of quality while training, by the averaged weights.

    every: steps between two measurements; 0 for none.
    num_samples: images, by the preview's sampler, whose distance is measured; 0 for none.
    steps: the sampler's steps, fewer ones are cheaper; null for the preview's.
    features: auto, or another name of `diffgen sample features=`, with its own settings.
    held_out: held-out images whose loss is measured.
    best: the figure whose least value best.ckpt has; auto takes fd where it is measured.
    """

    every: NonNegativeInt = 0
    num_samples: NonNegativeInt = 2000
    steps: PositiveInt | None = None
    features: str = "auto"
    held_out: PositiveInt = 1000
    best: Literal["auto", "fd", "held_out_loss"] = "auto"
