"""The loss by noise level: means over tenths of the time axis."""

import torch
from torch import Tensor

BINS = 10


class LevelLosses:
    """Sums of errors by tenth of time since the last reading, without waiting for the device."""

    def __init__(self) -> None:
        self.sum: Tensor | None = None
        self.count: Tensor | None = None

    def add(self, t: Tensor, errors: Tensor) -> None:
        """Note errors (b,) made at times t (b,) in (0, 1]."""
        index = (t * BINS).ceil().long().clamp(1, BINS).sub(1).to(errors.device)
        if self.sum is None or self.count is None or self.sum.device != errors.device:
            self.sum = torch.zeros(BINS, device=errors.device)
            self.count = torch.zeros(BINS, device=errors.device)
        self.sum.index_add_(0, index, errors.float())
        self.count.index_add_(0, index, torch.ones_like(errors, dtype=torch.float32))

    def read(self) -> dict[str, float]:
        """Means since the last reading: `loss` over all, `loss/t0.1` ... by tenth; then empty."""
        if self.sum is None or self.count is None or not self.count.any():
            return {}
        means = (self.sum / self.count).tolist()
        named = {f"loss/t{(k + 1) / BINS:.1f}": m for k, m in enumerate(means) if m == m}
        total = float(self.sum.sum() / self.count.sum())
        self.sum, self.count = None, None
        return {"loss": total, **named}
