"""Features of images: what distances between sets of images are measured on."""

import abc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.backends import cudnn
from torch.nn import functional as F

from diffgen.dataset.images import Pixels
from diffgen.errors import UsageError


@dataclass(frozen=True, eq=False)
class Features:
    """Features (N, d) and, where the extractor names classes, logits (N, K); float64, on the CPU.

    Row i belongs to image i.
    """

    features: Tensor
    logits: Tensor | None

    def __len__(self) -> int:
        return len(self.features)


class Extractor(abc.ABC):
    """A frozen network that turns uint8 images into features.

    An image's features depend on that image alone, to the bit: the network always sees `batch`
    images (the last call is padded), in evaluation mode, without autocast or reduced
    precision. So `batch` is no setting: the kernels of other batches round otherwise. `hash`
    names the weights; the features of two extractors compare only where `name` and `hash` agree.
    `knows_labels`: its logits are for the classes of the data set.
    """

    name: str
    hash: str
    dim: int
    batch: int
    module: nn.Module
    knows_labels: bool = False

    @abc.abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (B, dim) and logits (B, K) or None, of uint8 images on the module's device."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Features of uint8 images (N, C, H, W), N at least 1; other types are refused."""
        if images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
            raise UsageError(
                f"features need uint8 images (N, C, H, W), N > 0, and got {images.dtype} "
                f"{tuple(images.shape)}; quantise them once with diffgen.dataset.pixels"
            )
        self.module.eval()
        device = next(self.module.parameters()).device
        with _exact(device):
            parts = [self._rows(part.to(device)) for part in images.split(self.batch)]
        return joined(parts)

    def _rows(self, images: Tensor) -> Features:
        count = len(images)
        padding = images[:1].expand(self.batch - count, -1, -1, -1)
        features, logits = self.forward(torch.cat((images, padding)))
        logits = None if logits is None else logits[:count].to("cpu", torch.float64)
        return Features(features[:count].to("cpu", torch.float64), logits)


def batches(
    extractor: Extractor, pixels: Pixels, rows: Tensor | None = None
) -> Iterator[Features]:
    """The features of the images at `rows` (n,) int64, by default all, a few batches at a time."""
    rows = torch.arange(pixels.shape[0]) if rows is None else rows
    for part in rows.split(8 * extractor.batch):
        yield extractor(pixels[part])


IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def three_channels(images: Tensor, network: str) -> Tensor:
    """Grey or colour images (B, C, H, W) with three channels; UsageError for others."""
    channels = images.shape[1]
    if channels not in (1, 3):
        raise UsageError(
            f"{network} sees grey or colour, not {channels} channels; use features=classifier"
        )
    return images.expand(-1, 3, -1, -1)


def resized(images: Tensor, size: int, mode: str) -> Tensor:
    """uint8 to float (B, 3, size, size), antialiased, ImageNet's mean and deviation at 0 and 1."""
    x = three_channels(images, "this network").float() / 255
    if x.shape[-2:] != (size, size):
        x = F.interpolate(x, (size, size), mode=mode, antialias=True)
    mean, deviation = (x.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    return (x - mean) / deviation


def described(tensors: Mapping[str, Tensor]) -> list[str | Tensor]:
    """What a hash of named tensors reads: of each its name, type and shape, and its bytes."""
    parts: list[str | Tensor] = []
    for name, tensor in sorted(tensors.items()):
        parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}", tensor]
    return parts


def joined(parts: list[Features]) -> Features:
    """The features of all parts, one after another."""
    logits = [part.logits for part in parts if part.logits is not None]
    features = torch.cat([part.features for part in parts])
    return Features(features, torch.cat(logits) if logits else None)


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Full float32: neither autocast nor TF32 or bf16 products, whatever training has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast(device.type, enabled=False),
            cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
