"""The cache of fitted classifiers of features, so that all tables of a data set share one."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffgen.dataset.images import Images
from diffgen.evaluation.cache import Damaged, found_or_made, keep
from diffgen.evaluation.features_classifier import FeaturesClassifier, Fitted
from diffgen.files import expanded, sha256, sha256_of_json

VERSION = 1  # one more when the network or its fit changes

log = logging.getLogger(__name__)


def cached(
    settings: FeaturesClassifier, train: Images, test: Images, cache: Path, device: str = "cpu"
) -> Fitted:
    """The classifier of these settings fitted to `train`: from the cache, or fitted into it."""
    key = [VERSION, asdict(settings), train.fingerprint, test.fingerprint]
    name = f"{train.name[:40]}_{sha256_of_json(key)[:12]}.safetensors"
    path = expanded(cache) / "classifiers" / name

    def make() -> None:
        log.info("fitting the features' classifier of %s, once", train.name)
        fitted = settings.fit(train, test, device)
        log.info("it classifies %.2f %% of held-out images correctly", 100 * fitted.accuracy)
        _write(path, fitted)

    return found_or_made(path, lambda: _read(path, settings, train), make)


def _write(path: Path, fitted: Fitted) -> None:
    state = fitted.network.state_dict()
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    header = {"accuracy": repr(fitted.accuracy), "checksum": _checksum(weights)}
    keep(path, lambda file: file.write(save(weights, header)))


def _read(path: Path, settings: FeaturesClassifier, train: Images) -> Fitted:
    try:
        with safe_open(path, "pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata()
        if header["checksum"] != _checksum(weights):
            raise Damaged("its checksum differs")
        network = settings.network(train)
        network.load_state_dict(weights)
        accuracy = float(header["accuracy"])
    except (SafetensorError, RuntimeError, LookupError, TypeError, ValueError, OSError) as error:
        raise Damaged(str(error).strip().partition("\n")[0]) from error
    return Fitted(network.eval().requires_grad_(False), accuracy)


def _checksum(weights: Mapping[str, Tensor]) -> str:
    parts: list[str | Tensor] = []
    for name, tensor in sorted(weights.items()):
        parts += [f"{name} {tuple(tensor.shape)}", tensor]
    return sha256(parts)
