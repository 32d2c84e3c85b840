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
from diffgen.denoiser.noise_input import TOLD
from diffgen.denoiser.prediction import SCALINGS, Edm, Scaling
from diffgen.errors import UsageError
from diffgen.sampler import Sampler
from diffgen.schedule import Schedule
from diffgen.schedule.spacing import most, snapped, times

Shape = tuple[int, int, int]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class ModelSettings:
    """What a paper fixes besides its schedule and network.

    prediction: what the network gives; sigma_data: the data's deviation in the model's range, for
    prediction=edm (null: measured when training starts) and weighting=edm (null: 0.5); told: what
    the network hears of the noise; range: of the data; times and level_per: how training draws
    levels, log_sigma_mean and log_sigma_std being those of ln(sigma / alpha) for log_normal ones;
    weighting, reduction: how errors add up; gamma: the SNR at which min_snr caps and soft_min_snr
    bends; labels: whether it learns them, where there are any; label_dropout: share of labels
    hidden; dequantise: pixels even within their bin; clip: whether samplers keep the estimate
    inside the range unless told otherwise; variance: whether the network learns that of ancestral
    steps, in as many channels again.
    """

    name: str
    prediction: Literal["eps", "score", "raw_score", "x0", "v", "edm"] = "eps"
    sigma_data: PositiveFloat | None = None
    told: Literal["level", "index", "log_sigma", "nothing"] = "level"
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
    told, learned = TOLD[settings.told], settings.variance == "learned"
    return Preconditioned(network, schedule, scaling_of(settings), told, learned)


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
        told=settings.told != "nothing",
        levels=schedule.levels,
        out_channels=2 * shape[0] if settings.variance == "learned" else shape[0],
    )


def check_fit(settings: ModelSettings, schedule: Schedule) -> None:
    """UsageError where a model cannot learn on a schedule.

    It needs levels if it is told their index, and at pure noise a prediction from which x0 can be
    had: dividing by alpha is then no way to it.
    """
    if settings.told == "index" and schedule.levels is None:
        raise UsageError("model.told=index needs a schedule of levels, such as geometric")
    last = torch.tensor(1.0, dtype=torch.float64)
    coefficients = scaling_of(settings)(schedule.alpha(last), schedule.sigma(last))
    if not all(value.float().isfinite() for value in coefficients):
        cause = (
            "schedule.zero_snr=true" if getattr(schedule, "zero_snr", False) else "the schedule"
        )
        raise UsageError(
            f"{cause} leaves nothing of the image at t = 1, where model.prediction="
            f"{settings.prediction} says nothing of it either: take model.prediction=v or x0"
        )


def scaling_of(settings: ModelSettings) -> Scaling:
    """What makes the network's output an image."""
    if settings.prediction == "edm":
        return Edm(**({} if settings.sigma_data is None else {"sigma_data": settings.sigma_data}))
    return SCALINGS[settings.prediction]()


def start_of(settings: ModelSettings, sampler: Sampler) -> str:
    """What sampling starts from: the sampler's own, on a shell where the level is not told."""
    if sampler.start == "prior" and settings.told == "nothing":
        return "shell"
    return sampler.start


def spacing_of(
    settings: ModelSettings, schedule: Schedule, sampler: Sampler, steps: int | None
) -> str:
    """What spacing=auto means: the sampler's own, or between levels where steps are more.

    Not for a network that knows nothing between them.
    """
    if sampler.finer and settings.told != "index" and (steps or 0) > most(schedule):
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
    if settings.told != "index":
        return found
    if spacing == "ends":
        raise UsageError(
            f"this network knows {schedule.levels} noise levels and nothing between them, where "
            "this sampler would go; take one with steps, such as sampler=ddim"
        )
    return snapped(schedule, found)
