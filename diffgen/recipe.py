"""What a run is made of: typed settings, and the denoiser that a recipe describes.

A recipe is plain data, the resolved configuration of `diffgen train`: seed, dataset, model,
schedule, network, optimizer, ema, trainer and preview. A checkpoint carries it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from diffgen.build import build, typed
from diffgen.model.denoiser import Preconditioned
from diffgen.model.scalings import SCALINGS
from diffgen.model.told import TOLD

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class ModelSettings:
    """What a paper fixes besides its schedule and network.

    prediction: what the network gives; told: what it hears of the noise; range: of the data;
    times and level_per: how training draws levels; weighting, reduction: how errors add up;
    label_dropout: share of labels hidden; dequantise: pixels even within their bin; clip: whether
    samplers keep the estimate inside the range unless told otherwise.
    """

    name: str
    prediction: Literal["eps", "score", "x0", "v"] = "eps"
    told: Literal["level", "log_sigma", "nothing"] = "level"
    range: Literal["symmetric", "unit", "standardised"] = "symmetric"
    times: Literal["uniform", "antithetic", "stratified", "log_normal"] = "uniform"
    level_per: Literal["sample", "batch"] = "sample"
    weighting: Literal["simple", "velocity", "min_snr", "soft_min_snr", "edm"] = "simple"
    reduction: Literal["mean", "sum"] = "mean"
    label_dropout: float = 0.1
    dequantise: bool = False
    clip: bool = True


@dataclass(frozen=True)
class TrainerSettings:
    """How long and on what: `batch_size` is that of a whole step, over devices and accumulation.

    clip: largest norm of the gradient, null for none; save_every: steps between checkpoints;
    snapshot_every: steps between checkpoints that stay; log_every: steps between rows of the log.
    """

    max_steps: int
    batch_size: int = 128
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    devices: int = 1
    accelerator: str = "auto"
    accumulate: int = 1
    clip: float | None = 1.0
    save_every: int = 1000
    snapshot_every: int | None = None
    log_every: int = 50
    workers: int = 0


def denoiser_of(
    recipe: Mapping[str, Any], shape: Shape, num_classes: int, trust: Collection[str] = ()
) -> Preconditioned:
    """The denoiser of a recipe for images of `shape` (C, H, W), its weights untrained."""
    settings = typed(ModelSettings, "model", recipe["model"])
    schedule = build("schedule", recipe["schedule"], trust)
    network = build(
        "network",
        recipe["network"],
        trust,
        channels=shape[0],
        size=shape[1],
        num_classes=num_classes,
        told=settings.told != "nothing",
    )
    return Preconditioned(network, schedule, SCALINGS[settings.prediction](), TOLD[settings.told])
