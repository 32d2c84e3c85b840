"""What a run minimises, made from its recipe: the loss of a denoiser or of a classifier."""

from collections.abc import Mapping
from typing import Any

from diffgen.classifier_recipe import ClassifierSettings, classifier_of, settings_of
from diffgen.recipe import ModelSettings, Shape, denoiser_of
from diffgen.training.classifier_loss import ClassifierLoss
from diffgen.training.loss import Loss
from diffgen.training.module import Objective
from diffgen.training.times import TIMES, clean
from diffgen.training.weighting import weighting_of


def objective_of(recipe: Mapping[str, Any], shape: Shape, num_classes: int) -> Objective:
    """The loss of a recipe, and in it what learns, its weights untrained."""
    settings = settings_of(recipe)
    if isinstance(settings, ClassifierSettings):
        times = TIMES[settings.times] if settings.noise_conditional else clean
        return ClassifierLoss(classifier_of(recipe, settings, shape, num_classes), times)
    return _of_denoiser(recipe, settings, shape, num_classes)


def _of_denoiser(
    recipe: Mapping[str, Any], settings: ModelSettings, shape: Shape, num_classes: int
) -> Loss:
    return Loss(
        denoiser_of(recipe, shape, num_classes),
        TIMES[settings.times],
        weighting_of(settings.weighting, settings.sigma_data),
        per_batch=settings.level_per == "batch",
        total=settings.reduction == "sum",
    )
