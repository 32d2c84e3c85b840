"""Pixels that stay in their files, and are decoded when they are asked for."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from diffgen.dataset.decode import Decoder
from diffgen.dataset.store import Store
from diffgen.errors import UsageError

OnError = Literal["fail", "skip"]
REMEDY = "dataset.on_error=skip leaves such files out"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Streamed:
    """Pixels that stay in their files: `[index]` decodes those images, `shape` is (N, C, H, W).

    With `on_error` "skip", the next image of the same label stands for one that cannot be read.
    """

    store: Store
    names: Sequence[str]
    decoder: Decoder
    shape: tuple[int, ...]
    labels: Tensor | None = None
    on_error: OnError = "fail"
    damaged: set[int] = field(default_factory=set, compare=False)

    def __getitem__(self, index: Tensor) -> Tensor:
        """The images at `index` (B,), as uint8 (B, C, H, W)."""
        pixels = torch.empty(len(index), *self.shape[1:], dtype=torch.uint8)
        for row, number in enumerate(index.tolist()):
            try:
                self.read(number, pixels[row])
            except UsageError as error:
                if self.on_error == "fail":
                    raise UsageError(error.what, error.remedy or REMEDY) from error
                self._replace(number, pixels[row], error)
        return pixels

    def read(self, number: int, into: Tensor) -> None:
        """Decodes one image; UsageError where its file has another shape than the set."""
        pixels = torch.from_numpy(self.decoder(self.store, self.names[number]))
        if pixels.shape != into.shape:
            found, wanted = size_text(*pixels.shape[1:]), size_text(*into.shape[1:])
            raise UsageError(
                f"{self.names[number]} in {self.store.path} is {found}, not {wanted}",
                "set dataset.size=N to resize them",
            )
        into.copy_(pixels)

    def stamps(self) -> list[str]:
        """What changes when a file does, for each."""
        return [f"{name} {self.store.stamp(name)}" for name in self.names]

    def _replace(self, number: int, into: Tensor, error: UsageError) -> None:
        """Decodes the next image of the same label that can be read."""
        if number not in self.damaged:
            self.damaged.add(number)
            log.warning("%s; the next image stands for it", error.what)
        count, labels = len(self.names), self.labels
        for other in ((number + step) % count for step in range(1, count)):
            if labels is None or labels[other] == labels[number]:
                try:
                    return self.read(other, into)
                except UsageError:
                    continue
        raise UsageError(f"{error.what}, nor any other image of its class")


def size_text(height: int, width: int) -> str:
    return f"{width}x{height}"
