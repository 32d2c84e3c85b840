"""Averages of the weights over training, several at a time, kept apart from the raw weights."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor, nn

from diffgen.errors import UsageError


@dataclass(frozen=True)
class EmaSettings:
    """How fast an average decays: by `decay` a step, or by `width` relative to the run so far.

    `warmup` caps the decay at (1 + n) / (10 + n) after n steps, so that the first random weights
    are forgotten; without it the decay holds from the first step (NCSNv2's technique 5). `ramp`
    keeps the decay's half-life below that share of the run so far (EDM: Karras et al. 2022).
    `width` is the relative standard deviation of EDM2's power-function average (2024).
    """

    decay: float | None = None
    warmup: bool = True
    width: float | None = None
    ramp: float | None = None

    def __post_init__(self) -> None:
        if (self.decay is None) == (self.width is None):
            raise UsageError("an average needs either ema.<name>.decay or ema.<name>.width")
        if self.decay is not None and not 0 < self.decay < 1:
            raise UsageError(f"ema.<name>.decay={self.decay}: it must lie between 0 and 1")
        if self.width is not None and not 0 < self.width < 0.28:
            raise UsageError(f"ema.<name>.width={self.width}: it must lie between 0 and 0.28")
        if self.ramp is not None and (self.decay is None or not 0 < self.ramp < 1):
            raise UsageError(f"ema.<name>.ramp={self.ramp}: a share of 1, beside a decay")

    def beta(self) -> Callable[[int], float]:
        """n -> how much of the average survives step n, n = 1, 2, ..."""
        if self.width is not None:
            power = exponent(self.width) + 1
            return lambda n: (1 - 1 / n) ** power
        decay, ramp = self.decay or 0.0, self.ramp
        if ramp is not None:
            return lambda n: min(decay, 0.5 ** (1 / (ramp * n)))
        return (lambda n: min(decay, (1 + n) / (10 + n))) if self.warmup else (lambda n: decay)


def exponent(width: float) -> float:
    """The gamma whose power-function average has this relative width (EDM2, eq. 123's root)."""
    roots = np.roots([1, 7, 16 - width**-2, 12 - width**-2])
    return float(roots[np.isreal(roots) & (roots.real >= 0)].real.max())


class Ema(L.Callback):
    """Averages of the parameters of `module.denoiser.network`, updated after every step."""

    def __init__(self, settings: Mapping[str, EmaSettings]) -> None:
        self.betas = {name: each.beta() for name, each in settings.items()}
        self.averages: dict[str, dict[str, Tensor]] = {}
        self.parameters: list[Tensor] = []
        self.step = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        parameters = dict(_network(pl_module).named_parameters())
        for name in self.betas:
            start = self.averages.get(name, parameters)
            copies = {k: start[k].detach().clone().to(p) for k, p in parameters.items()}
            self.averages[name] = copies
        self.parameters = list(parameters.values())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.step = trainer.global_step  # that of the checkpoint, which on_fit_start cannot know

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        if trainer.global_step == self.step:
            return  # gradients are still accumulating
        for name, beta in self.betas.items():
            average, step = list(self.averages[name].values()), trainer.global_step
            torch._foreach_lerp_(average, self.parameters, 1 - beta(step))  # pyright: ignore
        self.step = trainer.global_step  # once all averages are of it

    @contextlib.contextmanager
    def weights(self, module: L.LightningModule, name: str | None = None) -> Iterator[None]:
        """Within it the network computes with average `name` (the first one by default).

        Where there is no average it keeps its raw weights.
        """
        name = name or next(iter(self.averages), None)
        weights = self.averages[name] if name else {}
        parameters = dict(_network(module).named_parameters())
        raw = {key: parameter.data for key, parameter in parameters.items()}
        try:
            for key, average in weights.items():
                parameters[key].data = average
            yield
        finally:
            for key, parameter in parameters.items():
                parameter.data = raw[key]

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = self.averages

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.averages = checkpoint["ema"]


def _network(module: Any) -> nn.Module:
    return module.denoiser.network
