"""What `sampler=` and `guidance=` say, read once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffgen.config.build import Choice, choice, typed
from diffgen.errors import UsageError

if TYPE_CHECKING:
    from diffgen.sampler import Sampler

OWN = "own"  # the sampler that a checkpoint's recipe names


@dataclass(frozen=True)
class SamplerSettings:
    """A sampler and its number of steps; `choice` None means the checkpoint's own.

    steps: None where the sampler takes every training level or chooses its own.
    """

    choice: Choice | None
    steps: int | None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "SamplerSettings":
        """From {"name": ..., "steps": ..., **settings of the sampler}."""
        options = dict(settings)
        steps = options.pop("steps", None)
        if options.get("name") == OWN:
            typed(_Own, "sampler", {k: v for k, v in options.items() if k != "name"})
            return cls(None, steps)
        return cls(choice("sampler", options), steps)

    def resolved(self, recipe: Mapping[str, Any]) -> "SamplerSettings":
        """The same where a sampler is named, else the one that a checkpoint's recipe names."""
        if self.choice is not None:
            return self
        if not recipe.get("sampler"):
            raise UsageError(
                "sampler=own: this checkpoint's recipe names no sampler; take one by its name, "
                "such as sampler=ddim"
            )
        own = SamplerSettings.of(recipe["sampler"])
        return SamplerSettings(own.choice, self.steps or own.steps)

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
    def of(cls, settings: Mapping[str, Any]) -> "GuidanceSettings":
        """From {"name": ..., **settings}."""
        options = dict(settings)
        name = options.pop("checkpoint", None)
        below = typed(_Below, "guidance", {"classifier_free": options.pop("classifier_free", 0)})
        checkpoint = None if name in (None, "???") else str(name)
        return cls(settings, choice("guidance", options), checkpoint, below.classifier_free)

    @property
    def name(self) -> str:
        return self.choice.name

    @property
    def weight(self) -> float | None:
        """w of (1 + w) D(x, c) - w D(x, null); None where the guidance has none."""
        return self.choice.settings.get("weight")

    @property
    def needs_checkpoint(self) -> bool:
        return "checkpoint" in self.given


@dataclass(frozen=True)
class _Below:
    classifier_free: float = 0.0
