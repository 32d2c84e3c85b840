"""What a network costs: rows evaluated, and evaluation in chunks of one shape."""

import torch
from torch import Tensor, nn


class FixedShape(nn.Module):
    """A network called on exactly `rows` images at a time, the last chunk filled up.

    Kernels chosen by shape then never change, so that an image's bytes do not depend on the
    batch it is in.
    """

    def __init__(self, network: nn.Module, rows: int) -> None:
        super().__init__()
        self.network, self.rows = network, rows

    def forward(self, x: Tensor, *more: Tensor | None) -> Tensor:
        parts = [
            self._padded([None if v is None else v[k : k + self.rows] for v in (x, *more)])
            for k in range(0, len(x), self.rows)
        ]
        return torch.cat(parts)[: len(x)]

    def _padded(self, inputs: list[Tensor | None]) -> Tensor:
        return self.network(*(None if v is None else _filled(v, self.rows) for v in inputs))


class RowCount(nn.Module):
    """A network that counts the images it evaluates; padding inside it does not count."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.rows = network, 0

    def forward(self, x: Tensor, *more: Tensor | None) -> Tensor:
        self.rows += len(x)
        return self.network(x, *more)


def _filled(rows: Tensor, count: int) -> Tensor:
    """`rows` repeated from its first one up to `count` rows."""
    if len(rows) == count:
        return rows.contiguous()
    filler = rows[:1].expand(count - len(rows), *rows.shape[1:])
    return torch.cat([rows, filler])
