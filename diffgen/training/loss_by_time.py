"""The loss by noise level: means over tenths of the time axis."""

import torch
from torch import Tensor

BINS = 10


class LossByTime:
    """Sums by tenth of time since they were last popped, without waiting for the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, t: Tensor, values: Tensor, name: str = "loss") -> None:
        """Add values (b,), errors or others, found at times t (b,) in [0, 1]."""
        index = (t * BINS).ceil().long().clamp(1, BINS).sub(1).to(values.device)
        if name not in self.sums or self.sums[name].device != values.device:
            self.sums[name] = torch.zeros(2, BINS, device=values.device)
        pairs = torch.stack([values.float(), torch.ones_like(values, dtype=torch.float32)])
        self.sums[name].index_add_(1, index, pairs)

    def pop_means(self) -> dict[str, float]:
        """As `means`, and begin anew."""
        means = self.means()
        self.sums = {}
        return means

    def means(self) -> dict[str, float]:
        """Means since they were last popped: `loss` over all, `loss/t0.1` ... by tenth."""
        found: dict[str, float] = {}
        for name, (total, count) in self.sums.items():
            found[name] = float(total.sum() / count.sum())
            means = (total / count).tolist()
            found |= {f"{name}/t{(k + 1) / BINS:.1f}": m for k, m in enumerate(means) if m == m}
        return found
