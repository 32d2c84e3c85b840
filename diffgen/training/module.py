"""The LightningModule: batches of bytes in, the loss out, and what the log says."""

from typing import Any, Protocol

import lightning.pytorch as L
import torch
from torch import Tensor

from diffgen.dataset.pixels import Range
from diffgen.denoiser.base import Preconditioned
from diffgen.denoiser.noisy_classifier import NoisyClassifier
from diffgen.errors import UsageError
from diffgen.training.draws import Draws
from diffgen.training.level_losses import LevelLosses
from diffgen.training.optimizer import OptimizerSettings


class Objective(Protocol):
    """What training minimises, and in it what learns."""

    @property
    def learner(self) -> Preconditioned | NoisyClassifier: ...

    def __call__(self, x0: Tensor, label: Any, draws: Draws) -> tuple[Tensor, ...]:
        """Errors (b,), the times (b,) they were made at, and perhaps where it was right (b,)."""
        ...


class Module(L.LightningModule):
    """Trains the learner of `loss` on batches {"pixels", "label", "step", "position"}.

    label_dropout: share of labels replaced by the null label, per sample. `header` is what a
    checkpoint says of itself (see diffgen.runs.checkpoint).
    """

    def __init__(
        self,
        loss: Objective,
        pixel_range: Range,
        optimizer: OptimizerSettings,
        header: dict[str, Any],
        *,
        seed: int,
        batch_size: int,
        num_classes: int,
        label_dropout: float,
        dequantise: bool,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.denoiser = loss.learner  # whichever it is: the name is that of the weights on disk
        self.loss, self.pixel_range, self.optimizer_settings = loss, pixel_range, optimizer
        self.header = header
        self.seed, self.batch_size, self.num_classes = seed, batch_size, num_classes
        self.label_dropout, self.dequantise = label_dropout, dequantise
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.level_losses = LevelLosses()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        draws = Draws(self.seed, batch["step"], self.batch_size, batch["position"])
        draws.seed_dropout(self.global_rank, self.device)
        x0 = self.images(batch["pixels"], draws)
        errors, t, *right = self.loss(x0, self.labels(batch, draws), draws)
        self.level_losses.add(t, errors.detach())
        for shares in right:
            self.level_losses.add(t, shares, "accuracy")
        return errors.mean()

    def images(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Pixels uint8 as a model sees them; dequantised ones are even within their bin."""
        if self.dequantise:
            x = (pixels.float() + draws.pixelwise(pixels)) / 256
            x = (x - self.pixel_range.shift) / self.pixel_range.scale
        else:
            x = self.pixel_range.to_model(pixels)
        return x.contiguous(memory_format=self.format)

    def labels(self, batch: dict[str, Any], draws: Draws) -> Tensor | None:
        """Labels (b,), each replaced by the null label with probability `label_dropout`."""
        if self.num_classes == 0:
            return None
        label = batch["label"]
        dropped = draws.here(draws.uniform("label")) < self.label_dropout
        return label.masked_fill(dropped.to(label.device), self.num_classes)

    def configure_optimizers(self) -> Any:
        settings, steps = self.optimizer_settings, self.trainer.max_steps
        adam = settings.adam(self.denoiser.network.parameters())
        rate = torch.optim.lr_scheduler.LambdaLR(adam, lambda k: settings.factor(k, steps))
        return {"optimizer": adam, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["diffgen"] = dict(self.header)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """UsageError where the checkpoint learned from images of another kind."""
        for key in ("shape", "classes"):
            theirs, ours = checkpoint["diffgen"][key], self.header[key]
            if theirs != ours:
                raise UsageError(
                    f"the checkpoint's images have {key} {theirs}, those of the data set {ours}; "
                    "a run goes on with the data it began with"
                )
