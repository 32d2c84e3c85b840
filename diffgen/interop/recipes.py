"""What the recipes of released networks have in common."""

from typing import Any

from diffgen.errors import UsageError
from diffgen.interop.files import Recipe, Settings

DATASETS = {
    "CELEBA": "celeba",
    "CIFAR10": "cifar10",
    "FFHQ": "ffhq",
    "LSUN": "lsun",
    "MNIST": "mnist",
}
SIZED = {"celeba", "ffhq", "lsun"}
LARGEST = 4096  # pixels a side


def denoiser_recipe(
    name: str,
    *,
    schedule: Settings,
    prediction: Settings,
    noise_input: str,
    network: Settings,
    **model: Any,
) -> Recipe:
    """A recipe of images in [-1, 1]; `name` is the model's, `model` what else it says."""
    stated = {"name": name, "noise_input": noise_input, "range": "symmetric", "clip": False}
    return {
        "model": stated | model,
        "prediction": dict(prediction),
        "schedule": dict(schedule),
        "network": dict(network),
    }


def ddpm_recipe(
    schedule: Settings, network: Settings, noise_input: str = "level", **model: Any
) -> Recipe:
    """A recipe of DDPM's kind, which predicts eps."""
    return denoiser_recipe(
        "ddpm",
        schedule=schedule,
        prediction={"name": "eps"},
        noise_input=noise_input,
        network=network,
        **model,
    )


def ve_recipe(sigma_max: float, sigma_min: float, network: Settings) -> Recipe:
    """A recipe of the VE SDE as score_sde and EDM train it."""
    return denoiser_recipe(
        "ncsnv2",
        schedule={"name": "ve", "sigma_max": sigma_max, "sigma_min": sigma_min},
        prediction={"name": "score"},
        noise_input="log_half_sigma",
        network=network,
    )


def origin_of(config: Settings, crop: str) -> Recipe:
    """dataset and ema, where the config names them."""
    data, model = config.get("data", {}), config.get("model", {})
    origin: Recipe = {}
    name = DATASETS.get(str(data.get("dataset")))
    if name:
        sized = {"size": data["image_size"]} if name in SIZED and "image_size" in data else {}
        cropped = {"crop": crop} if name == "celeba" else {}
        category = {"category": data["category"]} if name == "lsun" and "category" in data else {}
        origin["dataset"] = {"name": name, **sized, **cropped, **category}
    if "ema_rate" in model:
        origin["ema"] = {"average": {"decay": model["ema_rate"], "warmup": False, "width": None}}
    return origin


def size_of(stated: int | None, given: int | None, published: int | None = None) -> int:
    """The size of the images, by the configuration, by --size, or by the published networks."""
    if None not in (stated, given) and stated != given:
        raise UsageError(f"--size {given} contradicts the configuration's {stated}")
    size = stated or given or published
    if size is None:
        raise UsageError(
            "the weights do not say the size of the images",
            "give --size 32, or the run's configuration by --config FILE",
        )
    if not 1 <= size <= LARGEST:
        raise UsageError(f"no import of images of {size} pixels, only of 1 to {LARGEST:,}")
    return size
