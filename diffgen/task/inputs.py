"""The pictures that a task works on, and whoever brings them."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from diffgen.files import sha256

Names = str | int | list[str | int]


@dataclass(frozen=True, eq=False)
class LoadedImages:
    """N pictures of a model's shape: uint8 (N, C, H, W), labels (N,) where they are known."""

    pixels: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.pixels)


@runtime_checkable
class InputImages(Protocol):
    """Finds pictures: files, and images of the data set that a model was trained on."""

    def load(self, names: Names, resize: bool, grey: bool = False) -> LoadedImages:
        """The pictures of these names, in the model's shape.

        UsageError for a file of another size or kind, which `resize` converts; `grey` takes
        grey files for a colour model as they are.
        """
        ...

    def mask(self, path: str, resize: bool) -> Tensor:
        """Where a black and white file is white, bool (H, W)."""
        ...


def digest(*tensors: Tensor) -> str:
    """The first 128 bits of the SHA-256 of tensors' bytes, in hexadecimal."""
    described = ((repr((tensor.dtype, tuple(tensor.shape))), tensor) for tensor in tensors)
    return sha256(part for pair in described for part in pair)[:32]
