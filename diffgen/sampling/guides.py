"""The guidance that a request asks for: settings and other checkpoints made into a denoiser."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffgen.config.build import build
from diffgen.denoiser.base import Denoiser, Preconditioned
from diffgen.denoiser.evaluations import RowCount
from diffgen.denoiser.noise_input import nothing
from diffgen.denoiser.noisy_classifier import NoisyClassifier
from diffgen.errors import UsageError
from diffgen.guidance import checks
from diffgen.runs.checkpoint import Checkpoint, locate, opened
from diffgen.schedule import Schedule

Prepare = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Guides:
    """`settings` are those of the group guidance, `checkpoint` the model's to be guided.

    label_dropout: the share of labels that model did without; prepare: what is done to a network
    before it is called; runs: where checkpoints are looked for.
    """

    settings: dict[str, Any]
    checkpoint: Checkpoint
    label_dropout: float
    prepare: Prepare
    runs: Path

    @cached_property
    def other(self) -> Checkpoint | None:
        """The checkpoint that guides, None where none is needed."""
        if "checkpoint" not in self.settings:
            return None
        name = self.settings["checkpoint"]
        if name in (None, "???"):
            raise UsageError(f"guidance={self.settings['name']} needs guidance.checkpoint=PATH")
        return opened(locate(str(name), self.runs))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that labels have: the model's, or its classifier's where it has none."""
        if self.checkpoint.classes or self.settings["name"] != "classifier" or not self.other:
            return self.checkpoint.classes
        return self.other.classes

    @property
    def name(self) -> str | None:
        """The guidance at work and its settings but the weight; None where it changes nothing."""
        name = self.settings["name"]
        if name == "none" or (self.other is None and not self.checkpoint.classes):
            return None
        by = f" by {self.other.run.name} at {self.other.step}" if self.other else ""
        known = ("name", "weight", "checkpoint")
        more = {k: v for k, v in self.settings.items() if k not in known and v}
        return ", ".join([f"{name}{by}", *(f"{key} {value}" for key, value in more.items())])

    def identity(self) -> dict[str, Any]:
        """The settings, another checkpoint named by its content."""
        named = {"checkpoint": self.other.hash} if self.other else {}
        return {key: as_float(value) for key, value in self.settings.items()} | named

    def over(self, base: Denoiser, device: torch.device) -> tuple[Denoiser, list[RowCount]]:
        """The denoiser under this guidance, and counters of the other networks that it calls."""
        settings = {k: v for k, v in self.settings.items() if k != "checkpoint"}
        if settings["name"] == "classifier_free":
            self._check_free("guidance.weight", settings["weight"])
        if self.other is None:
            return build("guidance", settings, denoiser=base, null=self._null), []
        role = self._weak if settings["name"] == "autoguidance" else self._classifier
        guide = role(self.other, base.schedule).to(device)
        guide.network = self.prepare(guide.network)
        counter = RowCount(guide.network)
        beneath = self._beneath(base, settings.pop("classifier_free", 0))
        context = {"denoiser": beneath, "weak": guide, "classifier": guide, "null": self._null}
        return build("guidance", settings, **context), [counter]

    @property
    def _null(self) -> int:
        return len(self.checkpoint.classes)

    def _beneath(self, base: Denoiser, weight: float) -> Denoiser:
        """Classifier-free guidance under another one; the model itself where the weight is 0."""
        if weight == 0:
            return base
        self._check_free("guidance.classifier_free", weight)
        settings = {"name": "classifier_free", "weight": weight}
        return build("guidance", settings, denoiser=base, null=self._null)

    def _check_free(self, key: str, weight: float) -> None:
        checks.check_classifier_free(weight, self._null, self.label_dropout, key)

    def _weak(self, other: Checkpoint, schedule: Schedule) -> Preconditioned:
        weak = other.denoiser()
        checks.check_weak(facts(self.checkpoint, schedule), facts(other, weak.schedule))
        return weak

    def _classifier(self, other: Checkpoint, schedule: Schedule) -> NoisyClassifier:
        classifier = other.classifier()
        theirs = None if classifier.noise_input is nothing else classifier.schedule
        checks.check_classifier(facts(self.checkpoint, schedule), facts(other, theirs))
        return classifier


def facts(checkpoint: Checkpoint, schedule: Schedule | None) -> checks.Facts:
    """What two checkpoints must share to guide one another."""
    return checks.Facts(
        schedule=schedule,
        data_range=(checkpoint.range.low, checkpoint.range.high),
        shape=checkpoint.shape,
        classes=checkpoint.classes,
    )


def as_float(value: Any) -> Any:
    """A number, or a list of them, as it counts however it was typed: 1 is 1.0."""
    if isinstance(value, list):
        return [as_float(each) for each in value]
    return float(value) if isinstance(value, int) else value
