"""Features of Inception-v3, the ones that published FIDs are measured on.

Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
(2017). The weights are the papers' (TensorFlow, 2015-12-05) as converted by torch-fidelity.
"""

from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torchmetrics.image.fid import NoTrainInceptionV3

from diffgen.evaluation.features import Extractor, three_channels
from diffgen.evaluation.weights import Published

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
FILE = "weights-inception-2015-12-05-6726825d.pth"


class InceptionExtractor(Extractor):
    """The 2048 pooled features of Inception-v3 and its logits; grey becomes three channels.

    `weights` is a path to the file of weights; None downloads it once into torch's cache.
    `antialias` is the filter of the enlargement to 299 x 299: false, TensorFlow 1's bilinear one,
    gives the papers' numbers, and its features do not compare with those of true.
    """

    dim = 2048

    batch = 50

    def __init__(
        self, *, weights: str | None = None, antialias: bool = False, device: str = "cpu"
    ) -> None:
        published = Published("inception", URL_INCEPTION_V3, FILE, SHA256)
        path, digest = published.located(weights)
        self.name = "inception-antialias" if antialias else "inception"
        self.hash = digest[:12]
        features = [str(self.dim)]
        network = NoTrainInceptionV3("inception-v3-compat", features, str(path), antialias)
        self.module = network.requires_grad_(False).to(device)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features, and logits without the bias (B, 1008), as the Inception Score takes them."""
        features = self.module(three_channels(images, "Inception"))
        return features, features @ self.module.get_parameter("fc.weight").T
