"""The guidance that a request asks for: settings and other checkpoints made into a denoiser."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffgen.config.build import build
from diffgen.config.parts import GuidanceSettings
from diffgen.denoiser.base import Denoiser, NoisyClassifier, Preconditioned
from diffgen.denoiser.evaluations import RowCount
from diffgen.denoiser.noise_input import nothing
from diffgen.errors import UsageError
from diffgen.guidance import checks
from diffgen.runs.checkpoint import Checkpoint
from diffgen.runs.pinned import open_checkpoint
from diffgen.schedule import Schedule

Prepare = Callable[[nn.Module], nn.Module]


class Guides:
    """A guidance's settings, the checkpoint of the model, and that of the model which guides it.

    label_dropout: the share of labels that the model did without in training; prepare: what is
    done to a network before it is called; runs: where checkpoints are looked for.
    """

    def __init__(
        self,
        settings: GuidanceSettings,
        checkpoint: Checkpoint,
        label_dropout: float,
        prepare: Prepare,
        runs: Path,
    ) -> None:
        self.settings, self.checkpoint, self.prepare = settings, checkpoint, prepare
        self.label_dropout, self.null = label_dropout, len(checkpoint.classes)
        roles = {"weak": self._weak, "classifier": self._classifier}
        taken = inspect.signature(settings.choice.cls).parameters
        self.role = next((role for role in roles if role in taken), None)
        self.load = roles.get(self.role or "")
        self.other: Checkpoint | None = None
        if self.role:
            if settings.checkpoint is None:
                raise UsageError(f"guidance={settings.name} needs guidance.checkpoint=PATH")
            self.other = open_checkpoint(settings.checkpoint, runs, checkpoint.trust)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that labels have: the model's, or its classifier's where it has none."""
        if self.checkpoint.classes or self.role != "classifier" or not self.other:
            return self.checkpoint.classes
        return self.other.classes

    @property
    def name(self) -> str | None:
        """The guidance at work and its settings but the weight; None where it changes nothing."""
        name = self.settings.name
        if self.settings.weight is None or (self.other is None and not self.checkpoint.classes):
            return None
        by = ""
        if (other := self.other) is not None:  # names of runs repeat: every sweep has a run 0
            by = f" by {other.run.name} at {other.step} [{other.hash[:8]}]"
        known = ("name", "weight", "checkpoint")
        more = {k: v for k, v in self.settings.given.items() if k not in known and v}
        return ", ".join([f"{name}{by}", *(f"{key} {value}" for key, value in more.items())])

    def identity(self) -> dict[str, Any]:
        """The settings, another checkpoint named by its content."""
        named = {"checkpoint": self.other.hash} if self.other else {}
        return {key: as_float(value) for key, value in self.settings.given.items()} | named

    def over(self, base: Denoiser, device: torch.device) -> tuple[Denoiser, list[RowCount]]:
        """The denoiser under this guidance, and counters of the other networks that it calls."""
        choice = self.settings.choice
        if self.other is None or self.role is None or self.load is None:
            if self.settings.weight is not None:
                self._check_free("guidance.weight", self.settings.weight)
            return choice.build(denoiser=base, null=self.null), []
        guide = self.load(self.other, base.schedule).to(device)
        guide.network = counter = RowCount(self.prepare(guide.network))
        below = self._classifier_free(base, self.settings.classifier_free)
        return choice.build(denoiser=below, null=self.null, **{self.role: guide}), [counter]

    def _classifier_free(self, base: Denoiser, weight: float) -> Denoiser:
        """Classifier-free guidance under another one; the model itself where the weight is 0."""
        if weight == 0:
            return base
        self._check_free("guidance.classifier_free", weight)
        settings = {"name": "classifier_free", "weight": weight}
        return build("guidance", settings, denoiser=base, null=self.null)

    def _check_free(self, key: str, weight: float) -> None:
        checks.check_classifier_free(weight, self.null, self.label_dropout, key)

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
