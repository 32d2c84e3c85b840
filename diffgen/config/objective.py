"""What a run minimises, made from its recipe: the loss of a denoiser or of a classifier."""

from collections.abc import Mapping
from typing import Any

from diffgen.config.classifier_recipe import ClassifierSettings, classifier_of, settings_of
from diffgen.config.recipe import ModelSettings, Shape, denoiser_of
from diffgen.dataset.pixels import RANGES
from diffgen.errors import UsageError
from diffgen.schedule import Schedule
from diffgen.training.bound import Bound
from diffgen.training.classifier_loss import ClassifierLoss
from diffgen.training.loss import Loss
from diffgen.training.module import Objective
from diffgen.training.times import Times, clean, drawing
from diffgen.training.weighting import weighting_of


def objective_of(recipe: Mapping[str, Any], shape: Shape, num_classes: int) -> Objective:
    """The loss of a recipe, and in it what learns, its weights untrained."""
    settings = settings_of(recipe)
    if isinstance(settings, ClassifierSettings):
        times = _times(settings) if settings.noise_conditional else clean
        return ClassifierLoss(classifier_of(recipe, settings, shape, num_classes), times)
    return _of_denoiser(recipe, settings, shape, num_classes)


def _of_denoiser(
    recipe: Mapping[str, Any], settings: ModelSettings, shape: Shape, num_classes: int
) -> Loss:
    denoiser = denoiser_of(recipe, shape, num_classes)
    return Loss(
        denoiser,
        _times(settings),
        weighting_of(settings.weighting, settings.sigma_data, settings.gamma),
        per_batch=settings.level_per == "batch",
        total=settings.reduction == "sum",
        bound=_bound(settings, denoiser.schedule) if denoiser.learns_variance else None,
    )


def _times(settings: ModelSettings | ClassifierSettings) -> Times:
    return drawing(settings.times, settings.log_sigma_mean, settings.log_sigma_std)


def _bound(settings: ModelSettings, schedule: Schedule) -> Bound:
    if settings.range not in RANGES:
        raise UsageError(
            f"model.variance=learned needs bytes evenly on a known range, not model.range="
            f"{settings.range}: take symmetric or unit"
        )
    pixels = RANGES[settings.range]
    return Bound(schedule, pixels.low, pixels.high)
