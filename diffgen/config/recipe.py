"""What a run is made of: typed settings, and the denoiser that a recipe describes.

A recipe is plain data, the resolved configuration of `diffgen train`: seed, dataset, model,
schedule, network, optimizer, ema, trainer and preview. A checkpoint carries it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from diffgen.config.build import build, typed
from diffgen.denoiser.base import Preconditioned
from diffgen.denoiser.noise_input import NOISE_INPUTS
from diffgen.denoiser.prediction import PREDICTIONS, Edm, Prediction
from diffgen.errors import UsageError
from diffgen.sampler import Sampler
from diffgen.schedule import Schedule
from diffgen.schedule.spacing import max_steps, snapped, times

Shape = tuple[int, int, int]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class ModelSettings:
    """What a paper fixes besides its schedule and network.

    prediction: what the network gives; sigma_data: the data's deviation in the model's range,
    for prediction=edm (null: measured when training starts) and weighting=edm (null: 0.5);
    noise_input: what the network gets of the noise; range: of the data; times and level_per:
    how training draws levels, log_sigma_mean and log_sigma_std being those of ln(sigma /
    alpha) for log_normal ones; weighting, reduction: how errors add up; gamma: the SNR at
    which min_snr caps and soft_min_snr bends; labels: whether it learns them, where there are
    any; label_dropout: share of labels hidden; dequantise: pixels even within their bin; clip:
    whether samplers keep the estimate inside the range unless told otherwise; variance:
    whether the network learns that of ancestral steps, in as many channels again.
    """

    name: str
    prediction: Literal["eps", "score", "raw_score", "x0", "v", "edm"] = "eps"
    sigma_data: PositiveFloat | None = None
    noise_input: Literal["level", "index", "log_sigma", "nothing"] = "level"
    range: Literal["symmetric", "unit", "standardised"] = "symmetric"
    times: Literal["uniform", "antithetic", "stratified", "log_normal"] = "uniform"
    log_sigma_mean: FiniteFloat = -1.2
    log_sigma_std: Positive = 1.2
    level_per: Literal["sample", "batch"] = "sample"
    weighting: Literal["simple", "velocity", "min_snr", "soft_min_snr", "likelihood", "edm"] = (
        "simple"
    )
    gamma: Positive = 5.0
    reduction: Literal["mean", "sum"] = "mean"
    labels: bool = True
    label_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    dequantise: bool = False
    clip: bool = True
    variance: Literal["fixed", "learned"] = "fixed"


@dataclass(frozen=True)
class TrainerSettings:
    """How long and on what: `batch_size` is that of a whole step, over devices and accumulation.

    clip: largest norm of the gradient, null for none; save_every: steps between checkpoints;
    snapshot_every: steps between checkpoints that stay; log_every: steps between rows of the log.
    """

    max_steps: PositiveInt
    batch_size: PositiveInt = 128
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
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
    """Sample grids while training: `every` so many steps (0: none), by a sampler's settings."""

    sampler: dict[str, Any]
    every: NonNegativeInt = 1000
    num_samples: PositiveInt = 64


def denoiser_of(
    recipe: Mapping[str, Any], shape: Shape, num_classes: int, trust: Collection[str] = ()
) -> Preconditioned:
    """The denoiser of a recipe for images of `shape` (C, H, W), its weights untrained."""
    settings = typed(ModelSettings, "model", recipe["model"])
    schedule = build("schedule", recipe["schedule"], trust)
    check_fit(settings, schedule)
    network = network_of(recipe, settings, schedule, shape, num_classes, trust)
    noise_input, learned = NOISE_INPUTS[settings.noise_input], settings.variance == "learned"
    return Preconditioned(network, schedule, prediction_of(settings), noise_input, learned)


def network_of(
    recipe: Mapping[str, Any],
    settings: ModelSettings,
    schedule: Schedule,
    shape: Shape,
    num_classes: int,
    trust: Collection[str] = (),
) -> nn.Module:
    """The raw network of a recipe, untrained."""
    return build(
        "network",
        recipe["network"],
        trust,
        channels=shape[0],
        size=shape[1],
        num_classes=num_classes,
        has_noise_input=settings.noise_input != "nothing",
        levels=schedule.levels,
        out_channels=2 * shape[0] if settings.variance == "learned" else shape[0],
    )


def check_fit(settings: ModelSettings, schedule: Schedule) -> None:
    """UsageError where a model cannot learn on a schedule.

    It needs levels if it takes their index, and at pure noise a prediction from which x0 can be
    had: dividing by alpha is then no way to it.
    """
    if settings.noise_input == "index" and schedule.levels is None:
        raise UsageError("model.noise_input=index needs a schedule of levels, such as geometric")
    last = torch.tensor(1.0, dtype=torch.float64)
    coefficients = prediction_of(settings).coefficients(schedule.alpha(last), schedule.sigma(last))
    if not all(value.float().isfinite() for value in coefficients):
        cause = (
            "schedule.zero_snr=true" if getattr(schedule, "zero_snr", False) else "the schedule"
        )
        raise UsageError(
            f"{cause} leaves nothing of the image at t = 1, where model.prediction="
            f"{settings.prediction} says nothing of it either: take model.prediction=v or x0"
        )


def prediction_of(settings: ModelSettings) -> Prediction:
    """What makes the network's output an image."""
    if settings.prediction == "edm":
        return Edm(**({} if settings.sigma_data is None else {"sigma_data": settings.sigma_data}))
    return PREDICTIONS[settings.prediction]()


def start_of(settings: ModelSettings, sampler: Sampler) -> str:
    """What sampling starts from: the sampler's own, on a shell where the network gets no level."""
    if sampler.start == "prior" and settings.noise_input == "nothing":
        return "shell"
    return sampler.start


def spacing_of(
    settings: ModelSettings, schedule: Schedule, sampler: Sampler, steps: int | None
) -> str:
    """What spacing=auto means: the sampler's own, or between levels where steps are more.

    Not for a network that knows nothing between them.
    """
    if sampler.finer and settings.noise_input != "index" and (steps or 0) > max_steps(schedule):
        return sampler.finer
    return sampler.spacing


def check_spacing(sampler: Sampler, spacing: str) -> None:
    """UsageError where only one of a sampler and a spacing leaves the steps to the sampler."""
    if sampler.takes_steps and spacing == "ends":
        raise UsageError(
            "spacing=ends: this sampler takes the steps it is given; take spacing=auto"
        )
    if not sampler.takes_steps and spacing != "ends":
        raise UsageError(
            f"spacing={spacing}: this sampler chooses its own steps; leave it at spacing=auto"
        )


def times_of(
    settings: ModelSettings, schedule: Schedule, spacing: str, steps: int | None
) -> Tensor:
    """Times (steps + 1,) of a spacing at which this model can be asked.

    UsageError where it knows a few levels by index and the times would be others.
    """
    found = times(schedule, spacing, steps)
    if settings.noise_input != "index":
        return found
    if spacing == "ends":
        raise UsageError(
            f"this network knows {schedule.levels} noise levels and nothing between them, where "
            "this sampler would go; take one with steps, such as sampler=ddim"
        )
    return snapped(schedule, found)
