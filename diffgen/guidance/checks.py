"""Refusals of requests that make no sense, from plain facts, before anything is sampled."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from diffgen.errors import UsageError
from diffgen.schedule import Schedule

LISTED = 20


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What two checkpoints that guide one another must share.

    schedule: None for a classifier of clean images; data_range: of the model, (low, high); shape:
    (channels, height, width); classes: names in the order of the labels, () without labels.
    """

    schedule: Schedule | None
    data_range: tuple[float, float]
    shape: tuple[int, ...]
    classes: tuple[str, ...]


def check_classifier_free(
    weight: float, num_classes: int, label_dropout: float, key: str = "guidance.weight"
) -> None:
    """UsageError unless the checkpoint has the branches that `weight` asks for.

    `label_dropout` is the share of labels hidden in training, which taught it the null label;
    `key` is what set the weight.
    """
    if num_classes == 0 and weight not in (-1, 0):
        raise UsageError(
            f"{key}={weight:g} needs labels and this checkpoint was trained without: "
            f"take {key}=0, or train on a labelled dataset"
        )
    if num_classes and weight != 0 and label_dropout == 0:
        raise UsageError(
            f"{key}={weight:g} needs an unlabelled branch and this checkpoint never "
            f"learned one: take {key}=0, or train with model.label_dropout=0.1"
        )


def check_weak(model: Facts, weak: Facts) -> None:
    """UsageError unless the weak model of autoguidance answers the same question as the model."""
    _check_same("weak model", model, weak)


def check_classifier(model: Facts, classifier: Facts) -> None:
    """UsageError unless the classifier learned on this model's noise, images and classes.

    A model without labels can be guided by any classes.
    """
    if classifier.schedule is None:
        raise UsageError(
            "guidance.checkpoint is a classifier of clean images: train one with model=classifier "
            "model.noise_conditional=true on the schedule of this checkpoint"
        )
    if not model.classes:
        model = replace(model, classes=classifier.classes)
    _check_same("classifier", model, classifier)


def find_labels(wanted: Sequence[int | str], classes: Sequence[str]) -> list[int]:
    """The label of each wanted class, given by name or by index; UsageError lists the names.

    Where names are themselves numbers, only names count: "1" is never the second class by chance.
    """
    if not classes:
        raise UsageError("this checkpoint was trained without labels: leave labels= out")
    numbered = any(name.isdecimal() for name in classes)
    known = {} if numbered else {str(index): index for index in range(len(classes))}
    known |= {name: index for index, name in enumerate(classes)}
    for name in map(str, wanted):
        if name not in known:
            indices = "" if numbered else f", or 0 to {len(classes) - 1}"
            raise UsageError(f"no class {name}: there is {_listed(classes)}{indices}")
    return [known[str(name)] for name in wanted]


def _check_same(role: str, model: Facts, other: Facts) -> None:
    for name, mine in vars(model).items():
        theirs = vars(other)[name]
        if mine != theirs:
            raise UsageError(
                f"guidance.checkpoint: the {role} has {name.replace('_', ' ')} {_shown(theirs)}, "
                f"this model {_shown(mine)}; train the {role} with the same"
            )


def _shown(fact: object) -> str:
    return f"({_listed(cast(Sequence[object], fact))})" if isinstance(fact, tuple) else repr(fact)


def _listed(names: Sequence[object]) -> str:
    more = f", ... ({len(names)})" if len(names) > LISTED else ""
    return ", ".join(map(str, names[:LISTED])) + more
