"""The cache of fitted classifiers of features, so that all tables of a data set share one."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffgen.dataset.images import Images
from diffgen.errors import UsageError
from diffgen.evaluation.features_classifier import FeaturesClassifier, Fitted
from diffgen.files import WriteError, expanded, sha256, sha256_of_json, write_atomically

VERSION = 1  # one more when the network or its fit changes

log = logging.getLogger(__name__)


def cached(
    settings: FeaturesClassifier, train: Images, test: Images, cache: Path, device: str = "cpu"
) -> Fitted:
    """The classifier of these settings fitted to `train`: from the cache, or fitted into it."""
    key = [VERSION, asdict(settings), train.fingerprint, test.fingerprint]
    name = f"{train.name}_{sha256_of_json(key)[:12]}.safetensors"
    path = expanded(cache) / "classifiers" / name
    if found := _found(path, settings, train):
        return found
    with _locked(path):
        if found := _found(path, settings, train):  # while this process waited
            return found
        log.info("fitting the features' classifier of %s, once", train.name)
        fitted = settings.fit(train, test, device)
        log.info("it classifies %.2f %% of held-out images correctly", 100 * fitted.accuracy)
        _write(path, fitted)
        return _read(path, settings, train)


def _found(path: Path, settings: FeaturesClassifier, train: Images) -> Fitted | None:
    if not path.is_file():
        return None
    try:
        return _read(path, settings, train)
    except (SafetensorError, RuntimeError, LookupError, ValueError, OSError) as error:
        log.warning("%s is damaged (%s); the classifier is fitted again", path, error)
        path.unlink(missing_ok=True)
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Other processes that need the same file wait until it is written."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise UsageError(f"{WriteError(path, error)}; set cache=FOLDER") from error
    try:
        yield
    finally:
        lock.release()


def _write(path: Path, fitted: Fitted) -> None:
    state = fitted.network.state_dict()
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    header = {"accuracy": repr(fitted.accuracy), "checksum": _checksum(weights)}
    data = save(weights, header)
    try:
        write_atomically(path, lambda file: file.write(data))
    except WriteError as error:
        raise UsageError(f"{error}; set cache=FOLDER") from error


def _read(path: Path, settings: FeaturesClassifier, train: Images) -> Fitted:
    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = file.metadata()
    if header["checksum"] != _checksum(weights):
        raise ValueError("its checksum differs")
    network = settings.network(train)
    network.load_state_dict(weights)
    return Fitted(network.eval().requires_grad_(False), float(header["accuracy"]))


def _checksum(weights: Mapping[str, Tensor]) -> str:
    parts: list[str | Tensor] = []
    for name, tensor in sorted(weights.items()):
        parts += [f"{name} {tuple(tensor.shape)}", tensor]
    return sha256(parts)
