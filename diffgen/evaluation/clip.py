"""Features of CLIP's image network.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision (2021), as
torch-fidelity computes them, with its resizing.
"""

from typing import Any

from torch import Tensor
from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS, FeatureExtractorCLIP

from diffgen.errors import UsageError, did_you_mean
from diffgen.evaluation.features import Extractor, three_channels
from diffgen.evaluation.weights import Published


class ClipExtractor(Extractor):
    """The image embedding (B, dim) of torch-fidelity's extractor `network`.

    `weights` is the authors' file; null downloads it once. Its SHA-256 must be the published one:
    reading it may run code.
    """

    batch = 32

    def __init__(
        self, *, network: str = "clip-vit-b-32", weights: str | None = None, device: str = "cpu"
    ) -> None:
        if network not in MODEL_METADATA:
            raise UsageError(
                f"no features.network={network}{did_you_mean(network, MODEL_METADATA)}"
            )
        digest = MODEL_METADATA[network]["hash"]
        file = f"{network}-{digest}.pt"
        path, found = Published("clip", MODEL_URLS[network], file, digest).located(weights)
        try:
            module = FeatureExtractorCLIP(
                network, ["clip"], feature_extractor_weights_path=str(path)
            )
        except (RuntimeError, KeyError) as error:
            raise UsageError(f"features.weights={path} are not those of {network}") from error
        self.module = module.to(device)
        self.name, self.hash = network, found[:12]
        visual: Any = module.model.visual
        self.dim: int = visual.output_dim

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        return self.module(three_channels(images, "CLIP"))[0], None
