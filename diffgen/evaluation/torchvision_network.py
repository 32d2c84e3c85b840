"""Features of a classification network of torchvision, with weights from a file."""

from collections.abc import Mapping

import torch
import torchvision.models
from pydantic import PositiveInt
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models

from diffgen.errors import UsageError, did_you_mean
from diffgen.evaluation.features import Extractor, resized
from diffgen.evaluation.weights import Published, filled, state_in
from diffgen.files import sha256


class TorchvisionExtractor(Extractor):
    """The features (B, dim) and logits (B, K) of `network`, a classifier of torchvision.

    `layer` names the module whose output is taken, averaged over positions; null takes what the
    last linear layer is given. `weights` is a file of them, of torch.save or safetensors; null
    downloads torchvision's own once. Images are resized to `size` (bilinear, antialiased) and
    normalised as ImageNet's.
    """

    batch = 50

    def __init__(
        self,
        *,
        network: str = "resnet50",
        layer: str | None = None,
        weights: str | None = None,
        size: PositiveInt = 224,
        device: str = "cpu",
    ) -> None:
        known = list_models(module=torchvision.models)
        if network not in known:
            raise UsageError(f"no features.network={network}{did_you_mean(network, known)}")
        url = get_model_weights(network)["DEFAULT"].url
        path, digest = Published("torchvision", url, url.rpartition("/")[2]).located(weights)
        state = state_in(path)
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn
            self.module = get_model(network, weights=None, **_outputs(network, state))
        filled(self.module, state, path, f"torchvision's {network}")
        self.module.requires_grad_(False).eval().to(device)
        self.name = "-".join(filter(None, ("torchvision", network, layer)))
        self.hash = sha256([digest, layer or "", str(size)])[:12]
        self.size, self._seen = size, torch.empty(0)
        self._watch(layer)
        self.module(torch.zeros(1, 3, size, size, device=device))
        self.dim = self._seen.shape[1]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.module(resized(images, self.size, "bilinear"))
        return self._seen, logits

    def _watch(self, layer: str | None) -> None:
        """Lets `_seen` hold the features of each call."""
        if layer is None:
            _last_linear(self.module)[1].register_forward_pre_hook(
                lambda _, given: self._see(given[0])
            )
            return
        modules = dict(self.module.named_modules())
        if layer not in modules:
            raise UsageError(f"no features.layer={layer}{did_you_mean(layer, modules)}")
        modules[layer].register_forward_hook(lambda *call: self._see(call[-1]))

    def _see(self, found: Tensor) -> None:
        positions = {3: (1,), 4: (2, 3)}.get(found.ndim, ())  # of tokens, or of a picture
        self._seen = found.mean(positions) if positions else found


def _last_linear(network: nn.Module) -> tuple[str, nn.Module]:
    found = [(n, part) for n, part in network.named_modules() if isinstance(part, nn.Linear)]
    if not found:
        raise UsageError(
            "this network has no linear layer: name another one by features.layer=NAME"
        )
    return found[-1]


def _outputs(network: str, state: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of classes that weights are for, where the last layer tells it."""
    with torch.device("meta"):
        name = _last_linear(get_model(network, weights=None))[0]
    last = state.get(f"{name}.weight")
    return {} if last is None or last.ndim != 2 else {"num_classes": len(last)}
