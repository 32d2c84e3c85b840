"""Features of Inception-v3, the ones that published FIDs are measured on.

Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
(2017). The weights are the papers' (TensorFlow, 2015-12-05) as converted by torch-fidelity.
"""

import hashlib
from pathlib import Path

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torchmetrics.image.fid import NoTrainInceptionV3

from diffgen.errors import UsageError
from diffgen.evaluation.features import Extractor
from diffgen.files import expanded

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
FILE = "weights-inception-2015-12-05-6726825d.pth"


class InceptionExtractor(Extractor):
    """The 2048 pooled features of Inception-v3; grey images become three equal channels.

    `weights` is a path to the file of weights; None downloads it once into torch's cache.
    `antialias` is the filter of the enlargement to 299 x 299: false, TensorFlow 1's bilinear one,
    gives the papers' numbers, and its features do not compare with those of true.
    """

    dim = 2048

    def __init__(
        self,
        *,
        weights: str | None = None,
        antialias: bool = False,
        batch: PositiveInt = 50,
        device: str = "cpu",
    ) -> None:
        path = expanded(weights) if weights else _downloaded()
        self.name = "inception-antialias" if antialias else "inception"
        self.hash = _verified(path)[:12]
        self.batch = batch
        features = [str(self.dim)]
        network = NoTrainInceptionV3("inception-v3-compat", features, str(path), antialias)
        self.module = network.requires_grad_(False).to(device)

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        channels = images.shape[1]
        if channels not in (1, 3):
            raise UsageError(
                f"Inception sees grey or colour, not {channels} channels; use features=classifier"
            )
        return self.module(images.expand(-1, 3, -1, -1)), None


def _downloaded() -> Path:
    """Where torch keeps the weights, fetched and checked if they are not there yet."""
    path = Path(torch.hub.get_dir(), "checkpoints", FILE)
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=SHA256)
        except (OSError, RuntimeError) as error:
            raise UsageError(
                f"Inception's weights cannot be downloaded ({error}): put {URL_INCEPTION_V3} at "
                f"{path}, or anywhere with features=inception features.weights=PATH"
            ) from error
    return path


def _verified(path: Path) -> str:
    """The file's SHA-256, which must be the published one: reading it may run code."""
    if not path.is_file():
        raise UsageError(f"features.weights: no file {path}; it is {URL_INCEPTION_V3}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise UsageError(
            f"{path} is not {FILE}: its SHA-256 begins with {digest[:8]}, not {SHA256[:8]}; "
            f"download {URL_INCEPTION_V3} again"
        )
    return digest
