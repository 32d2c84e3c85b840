"""A small classifier of a data set, whose features measure that set's samples."""

import copy
import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from diffgen.dataset.images import Images, Pixels
from diffgen.errors import UsageError
from diffgen.evaluation.cache import Damaged, found_or_made, keep
from diffgen.evaluation.features import Extractor, described
from diffgen.files import expanded, sha256, sha256_of_json
from diffgen.network.classifier import Classifier

VERSION = 1  # one more when the network or its fit changes
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A classifier in evaluation mode, and its accuracy on images it was not fitted to."""

    network: Classifier
    accuracy: float


@dataclass(frozen=True)
class FeaturesClassifier:
    """How the classifier is fitted: AdamW, one cycle of the rate `lr`, images shifted a little.

    It lasts `steps` steps, or `epochs` passes over a small set. `shift` is the farthest shift, as
    a share of the image's side. Shifts, dropout and weight decay keep the features of training
    images close to those of new ones, which a floor of held-out images relies on.
    """

    steps: PositiveInt = 1200
    epochs: PositiveInt = 30
    batch_size: PositiveInt = 128
    lr: PositiveFloat = 5e-3
    weight_decay: NonNegativeFloat = 0.1
    width: PositiveInt = 16
    dim: PositiveInt = 64
    dropout: NonNegativeFloat = 0.5
    shift: NonNegativeFloat = 0.07
    seed: int = 0

    def fit(self, train: Images, test: Images, device: str = "cpu") -> Fitted:
        """A classifier fitted to `train` and tried on `test`, the same for the same seed."""
        labels = _labels(train)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(self.seed)
            network = self.network(train).to(device).to(memory_format=torch.channels_last)
            self._learn(network, train.pixels, labels)
        network.eval().requires_grad_(False)
        return Fitted(network, accuracy(network, test.pixels, _labels(test)))

    def network(self, train: Images) -> Classifier:
        """A classifier of these settings for images as in `train`, untrained."""
        _, channels, size, _ = train.pixels.shape
        return Classifier(
            channels=channels,
            size=size,
            num_classes=len(train.classes),
            width=self.width,
            dim=self.dim,
            dropout=self.dropout,
        )

    def _learn(self, network: Classifier, pixels: Pixels, labels: Tensor) -> None:
        steps = min(self.steps, math.ceil(self.epochs * len(labels) / self.batch_size))
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.AdamW(
            network.parameters(), self.lr, weight_decay=self.weight_decay
        )
        rising = max(0.1, 2 / steps) if steps > 1 else 0.1  # a phase of length 0 has no rates
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.lr, total_steps=steps, pct_start=rising
        )
        margin = round(network.size * self.shift)
        text, console = "fitting the features' classifier", Console(stderr=True)
        shown = {"console": console, "transient": True, "disable": not sys.stderr.isatty()}
        for _ in track(range(steps), text, **shown):
            rows = torch.randint(len(labels), (self.batch_size,), generator=generator)
            logits = network(_scaled(shifted(pixels[rows], margin, generator), network))
            loss = F.cross_entropy(logits, labels[rows].to(logits.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            cycle.step()


def shifted(images: Tensor, margin: int, generator: torch.Generator) -> Tensor:
    """uint8 (B, C, H, W), each moved by its own up to `margin` pixels, borders repeated."""
    count, channels, height, width = images.shape
    moves = torch.randint(-margin, margin + 1, (2, count, 1), generator=generator)
    down = (torch.arange(height) + moves[0]).clamp(0, height - 1)
    right = (torch.arange(width) + moves[1]).clamp(0, width - 1)
    rows = down[:, None, :, None].expand(-1, channels, -1, width)
    columns = right[:, None, None, :].expand(-1, channels, height, -1)
    return images.gather(2, rows).gather(3, columns)


@torch.no_grad()
def accuracy(network: Classifier, pixels: Pixels, labels: Tensor) -> float:
    """The share of images that a classifier in evaluation mode classifies correctly."""
    correct = 0
    for rows in torch.arange(len(labels)).split(500):
        guess = network(_scaled(pixels[rows], network)).argmax(1).cpu()
        correct += int((guess == labels[rows]).sum())
    return correct / len(labels)


def _labels(images: Images) -> Tensor:
    if images.labels is None or len(images.classes) < 2:
        raise UsageError(
            f"features=classifier needs images of two classes or more, and {images.name} has "
            "no such labels; use features=inception"
        )
    return images.labels


def _scaled(images: Tensor, network: Classifier) -> Tensor:
    device = network.classify.weight.device
    x = images.to(device, torch.float32) / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)


class ClassifierExtractor(Extractor):
    """The penultimate layer (B, dim) and the logits (B, K) of a trained classifier.

    `network` is copied: training it on changes nothing here.
    """

    name = "classifier"
    knows_labels = True

    def __init__(self, network: Classifier, *, device: str = "cpu", batch: int = 250) -> None:
        self.module = copy.deepcopy(network).eval().requires_grad_(False).to(device)
        self.network, self.dim, self.batch = self.module, network.dim, batch
        self.hash = sha256([type(network).__name__, *described(network.state_dict())])[:12]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        channels, size = self.network.channels, self.network.size
        if images.shape[1:] != (channels, size, size):
            raise UsageError(
                f"this classifier was trained on images of shape {(channels, size, size)}, not "
                f"{tuple(images.shape[1:])}; train one on this data set or use features=inception"
            )
        return self.network.features(images.float() / 127.5 - 1)


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
