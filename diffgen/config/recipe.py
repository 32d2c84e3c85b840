"""What a recipe describes: a denoiser or a classifier, its loss, and what they see of the data.

A recipe is plain data, the resolved configuration of `diffgen train`; a checkpoint carries it.
"""

import abc
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from diffgen.config.build import Choice, choice, typed
from diffgen.dataset.pixels import RANGES
from diffgen.denoiser.base import NoisyClassifier, Preconditioned
from diffgen.denoiser.noise_input import NOISE_INPUTS, level, nothing
from diffgen.errors import UsageError
from diffgen.schedule import Schedule
from diffgen.training.coupling import COUPLINGS
from diffgen.training.loss import ClassifierLoss, Loss, VariationalBound
from diffgen.training.module import Objective
from diffgen.training.times import clean

Shape = tuple[int, int, int]
Share = Annotated[float, Field(ge=0, lt=1)]
RangeName = Literal["symmetric", "unit", "standardised"]


@dataclass(frozen=True)
class ModelSettings:
    """What a paper fixes besides its schedule, network, prediction, times and weighting.

    name: of the paper's model.
    noise_input: what the network is given of the noise.
    range: of the data that the model sees: [-1, 1], [0, 1], or mean 0 and deviation 1.
    level_per: whether each image of a batch has a noise level of its own, or all share one.
    reduction: whether errors of pixels are averaged, or summed and halved (NCSN).
    labels: whether the model learns the classes, where there are any.
    label_dropout: share of labels replaced by the null label in training, from 0 to below 1.
    dequantise: whether pixels are spread evenly within their bin.
    clip: whether samplers keep the estimate inside the range unless another clip is asked for.
    variance: fixed, or learned as the variance of ancestral steps, in as many channels again.
    coupling: how noise is paired with images: independent, or ot (least distance in a batch).
    """

    name: str
    noise_input: Literal[
        "level", "thousandths", "index", "log_sigma", "log_half_sigma", "nothing"
    ] = "level"
    range: RangeName = "symmetric"
    level_per: Literal["sample", "batch"] = "sample"
    reduction: Literal["mean", "sum"] = "mean"
    labels: bool = True
    label_dropout: Share = 0.1
    dequantise: bool = False
    clip: bool = True
    variance: Literal["fixed", "learned"] = "fixed"
    coupling: Literal["independent", "ot"] = "independent"


@dataclass(frozen=True)
class ClassifierSettings:
    """How a classifier learns: on noised images with their noise level, or on clean ones alone.

    name: classifier.
    noise_conditional: whether it learns noisy images; one of clean images guides nothing.
    range: of the data that it sees, as of a model.
    guides: the checkpoint whose schedule and range take the place of these; null in a recipe.
    """

    labels: ClassVar[bool] = True
    label_dropout: ClassVar[float] = 0.0
    dequantise: ClassVar[bool] = False

    name: str
    noise_conditional: bool = False
    range: RangeName = "symmetric"
    guides: str | None = None


@dataclass(frozen=True)
class Recipe(abc.ABC):
    """The parts that a model is made of, as choices; built once the shape of the data is known."""

    schedule: Choice
    network: Choice
    times: Choice
    model: ModelSettings | ClassifierSettings

    @abc.abstractmethod
    def check(self) -> None:
        """UsageError where these parts do not go together."""

    @abc.abstractmethod
    def raw_network(self, shape: Shape, num_classes: int) -> nn.Module:
        """The network for images of `shape` (C, H, W), untrained."""

    @abc.abstractmethod
    def objective(self, shape: Shape, num_classes: int) -> Objective:
        """The loss, and in it what learns, its weights untrained."""

    @cached_property
    def built_schedule(self) -> Schedule:
        """The schedule as an object."""
        with torch.device("cpu"):  # also where a network is made on the meta device
            return self.schedule.build()

    def parts(self) -> dict[str, Choice]:
        """The choices by their keys."""
        return {key: part for key, part in vars(self).items() if isinstance(part, Choice)}

    def unmeasured(self) -> list[str]:
        """The keys whose null stands for what is measured in the training set."""
        return [
            f"{key}.{name}" for key, part in self.parts().items() for name in part.unmeasured()
        ]


@dataclass(frozen=True)
class DenoiserRecipe(Recipe):
    """A recipe of a model that makes images."""

    model: ModelSettings
    prediction: Choice
    weighting: Choice

    def check(self) -> None:
        """A network of index levels needs levels, and x0 must follow from the prediction.

        At pure noise (alpha = 0) dividing by alpha is no way to x0.
        """
        if getattr(self.network.cls, "classifies", False):
            what = f"network={self.network.name} makes no images"
            raise UsageError(f"{what}: take unet, or model=classifier")
        if self.unmeasured():
            return
        schedule = self.built_schedule
        if self.model.noise_input == "index" and schedule.levels is None:
            raise UsageError(
                "model.noise_input=index needs a schedule of levels, such as geometric"
            )
        last = torch.tensor(1.0, dtype=torch.float64, device="cpu")  # not a number on meta
        prediction = self.prediction.build()
        coefficients = prediction.coefficients(schedule.alpha(last), schedule.sigma(last))
        if not all(value.float().isfinite() for value in coefficients):
            zero_snr = getattr(schedule, "zero_snr", False)
            cause = "schedule.zero_snr=true" if zero_snr else f"schedule={self.schedule.name}"
            raise UsageError(
                f"{cause} leaves nothing of the image at t = 1, where prediction="
                f"{self.prediction.name} says nothing of it either: take prediction=v, flow or x0"
            )

    def raw_network(self, shape: Shape, num_classes: int) -> nn.Module:
        return self.network.build(
            channels=shape[0],
            size=shape[1],
            num_classes=num_classes,
            has_noise_input=self.model.noise_input != "nothing",
            levels=self.built_schedule.levels,
            out_channels=2 * shape[0] if self.model.variance == "learned" else shape[0],
        )

    def denoiser(self, shape: Shape, num_classes: int) -> Preconditioned:
        """The denoiser for images of `shape` (C, H, W), its weights untrained."""
        self.check()
        return Preconditioned(
            self.raw_network(shape, num_classes),
            self.built_schedule,
            self.prediction.build(),
            NOISE_INPUTS[self.model.noise_input],
            self.model.variance == "learned",
        )

    def objective(self, shape: Shape, num_classes: int) -> Loss:
        denoiser = self.denoiser(shape, num_classes)
        return Loss(
            denoiser,
            self.times.build(),
            self.weighting.build(),
            per_batch=self.model.level_per == "batch",
            sum_pixels=self.model.reduction == "sum",
            bound=self._bound(denoiser.schedule) if denoiser.learns_variance else None,
            coupling=COUPLINGS[self.model.coupling],
        )

    def _bound(self, schedule: Schedule) -> VariationalBound:
        if self.model.range not in RANGES:
            raise UsageError(
                f"model.variance=learned needs bytes evenly on a known range, not model.range="
                f"{self.model.range}: take symmetric or unit"
            )
        pixels = RANGES[self.model.range]
        return VariationalBound(schedule, pixels.low, pixels.high)


@dataclass(frozen=True)
class ClassifierRecipe(Recipe):
    """A recipe of a classifier of noisy images, which guides a model of the same schedule."""

    model: ClassifierSettings

    def check(self) -> None:
        if not getattr(self.network.cls, "classifies", False):
            what = f"network={self.network.name} names no classes"
            raise UsageError(f"{what}: take network=classifier or classifier_unet")

    def raw_network(self, shape: Shape, num_classes: int) -> nn.Module:
        if num_classes < 2:
            raise UsageError(
                "model=classifier needs a data set with labels of two classes or more, and this "
                "one has none"
            )
        return self.network.build(
            channels=shape[0],
            size=shape[1],
            num_classes=num_classes,
            noise_conditional=self.model.noise_conditional,
        )

    def classifier(self, shape: Shape, num_classes: int) -> NoisyClassifier:
        """The classifier for images of `shape` (C, H, W), its weights untrained."""
        self.check()
        network = self.raw_network(shape, num_classes)
        noise_input = level if self.model.noise_conditional else nothing
        return NoisyClassifier(network, self.built_schedule, noise_input)

    def objective(self, shape: Shape, num_classes: int) -> ClassifierLoss:
        times = self.times.build() if self.model.noise_conditional else clean
        return ClassifierLoss(self.classifier(shape, num_classes), times)


def recipe_of(plain: Mapping[str, Any], trust: Collection[str] = ()) -> Recipe:
    """The recipe in a resolved configuration; UsageError where a value of it is wrong.

    Classes outside this package need the user's `trust`. Recipes of imported weights, which nobody
    trains, say nothing of times and weighting.
    """
    plain = {"times": {"name": "uniform"}, "weighting": {"name": "simple"}, **plain}
    parts = {key: choice(key, plain[key], trust) for key in ("schedule", "network", "times")}
    if plain["model"].get("name") == "classifier":
        return ClassifierRecipe(**parts, model=typed(ClassifierSettings, "model", plain["model"]))
    parts |= {key: choice(key, plain[key], trust) for key in ("prediction", "weighting")}
    return DenoiserRecipe(**parts, model=typed(ModelSettings, "model", plain["model"]))
