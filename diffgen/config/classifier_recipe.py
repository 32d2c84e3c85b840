"""Recipes of classifiers: their settings, and the classifier that a recipe describes.

A recipe is one of a classifier where its model's name is `classifier`; else of a denoiser.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import FiniteFloat
from torch import nn

from diffgen.config.build import build, typed
from diffgen.config.recipe import ModelSettings, Positive, Shape, network_of
from diffgen.denoiser.noise_input import level, nothing
from diffgen.denoiser.noisy_classifier import NoisyClassifier
from diffgen.errors import UsageError
from diffgen.network.classifier import Classifier
from diffgen.schedule import Schedule

NAME = "classifier"


@dataclass(frozen=True)
class ClassifierSettings:
    """How a classifier learns: on noised images, with the time, or on clean ones alone.

    range, times, log_sigma_mean, log_sigma_std: as in ModelSettings; guides: the checkpoint whose
    schedule and range took the place of the configured ones, null in a recipe.
    """

    label_dropout: ClassVar[float] = 0.0
    dequantise: ClassVar[bool] = False

    name: str
    noise_conditional: bool = False
    range: Literal["symmetric", "unit", "standardised"] = "symmetric"
    times: Literal["uniform", "antithetic", "stratified", "log_normal"] = "uniform"
    log_sigma_mean: FiniteFloat = -1.2
    log_sigma_std: Positive = 1.2
    guides: str | None = None


def is_classifier(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe describes a classifier."""
    return recipe["model"].get("name") == NAME


def settings_of(recipe: Mapping[str, Any]) -> ModelSettings | ClassifierSettings:
    """The settings of a recipe's model; UsageError where its network does another thing."""
    network = recipe["network"].get("name")
    if is_classifier(recipe) and network != NAME:
        raise UsageError(f"network={network} names no classes: model=classifier takes its own")
    if not is_classifier(recipe) and network == NAME:
        raise UsageError("network=classifier makes no images: take unet, or model=classifier")
    kind = ClassifierSettings if is_classifier(recipe) else ModelSettings
    return typed(kind, "model", recipe["model"])


def classifier_of(
    recipe: Mapping[str, Any], settings: ClassifierSettings, shape: Shape, num_classes: int
) -> NoisyClassifier:
    """The classifier of a recipe for images of `shape` (C, H, W), its weights untrained."""
    network = classifying_network(recipe, settings, shape, num_classes)
    noise_input = level if settings.noise_conditional else nothing
    return NoisyClassifier(network, build("schedule", recipe["schedule"]), noise_input)


def classifying_network(
    recipe: Mapping[str, Any], settings: ClassifierSettings, shape: Shape, num_classes: int
) -> Classifier:
    """The raw network of a classifier's recipe; UsageError where there are no classes."""
    if num_classes < 2:
        raise UsageError(
            "model=classifier needs a data set with labels of two classes or more, and "
            f"{recipe['dataset']['name']} has none here"
        )
    return build(
        "network",
        recipe["network"],
        channels=shape[0],
        size=shape[1],
        num_classes=num_classes,
        noise_conditional=settings.noise_conditional,
    )


def any_network(
    recipe: Mapping[str, Any],
    settings: ModelSettings | ClassifierSettings,
    schedule: Schedule,
    shape: Shape,
    num_classes: int,
) -> nn.Module:
    """The raw network of any recipe, untrained."""
    if isinstance(settings, ClassifierSettings):
        return classifying_network(recipe, settings, shape, num_classes)
    return network_of(recipe, settings, schedule, shape, num_classes)
