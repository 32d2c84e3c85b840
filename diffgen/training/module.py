"""The LightningModule: batches of bytes in, the loss out, and what the log says."""

import logging
from typing import Any, Protocol

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from diffgen.dataset.augmentation import DRAWS, changed, drawn
from diffgen.dataset.batches import Batch
from diffgen.dataset.pixels import Range
from diffgen.denoiser.base import NoisyClassifier, Preconditioned
from diffgen.errors import UsageError
from diffgen.files import sha256
from diffgen.training.optimizer import OptimizerSettings
from diffgen.training.random_numbers import RandomNumbers

BINS = 10


class LossByTime:
    """The loss by noise level: sums over tenths of time, without waiting for the device."""

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


log = logging.getLogger(__name__)


class Objective(Protocol):
    """What training minimises, and in it what learns."""

    @property
    def learner(self) -> Preconditioned | NoisyClassifier: ...

    def __call__(
        self, x0: Tensor, label: Any, random: RandomNumbers, augment: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Errors (b,), the times (b,) they were made at, and perhaps 1 where correct (b,)."""
        ...


class Module(L.LightningModule):
    """Trains the learner of `loss` on batches {"pixels", "label", "step", "position"}.

    label_dropout: share of labels replaced by the null label, per sample. augment: probability of
    each change of an image that the network is told of. `header` is what a checkpoint says of
    itself (see diffgen.runs.checkpoint).
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
        augment: float | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = loss.learner  # or a classifier: the name is that of the weights on disk
        self.loss, self.pixel_range, self.optimizer_settings = loss, pixel_range, optimizer
        self.header = header
        self.seed, self.batch_size, self.num_classes = seed, batch_size, num_classes
        self.label_dropout, self.dequantise = label_dropout, dequantise
        self.augment = augment
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.loss_by_time = LossByTime()
        self.quality = ""  # the last figures of quality, as progress shows them

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        random = RandomNumbers(self.seed, batch["step"], self.batch_size, batch["position"])
        random.seed_dropout(self.global_rank, self.device)
        x0, augment = self.augmented(self.images(batch["pixels"], random), random)
        errors, t, *correct = self.loss(x0, self.labels(batch, random), random, augment)
        self.loss_by_time.add(t, errors.detach())
        for each in correct:
            self.loss_by_time.add(t, each, "accuracy")
        return errors.mean()

    def images(self, pixels: Tensor, random: RandomNumbers) -> Tensor:
        """Pixels uint8 as a model sees them; dequantised ones are uniform within their bin."""
        if self.dequantise:
            x = (pixels.float() + random.uniform_like(pixels)) / 256
            x = (x - self.pixel_range.shift) / self.pixel_range.scale
        else:
            x = self.pixel_range.to_model(pixels)
        return x.contiguous(memory_format=self.format)

    def augmented(self, x0: Tensor, random: RandomNumbers) -> tuple[Tensor, Tensor | None]:
        """Images, changed with probability `augment`, and what the network is told (b, 9)."""
        if not self.augment:
            return x0, None
        changes = drawn(random.uniforms("augment", DRAWS), self.augment, x0.shape[-1])
        x0 = changed(x0, changes, random.position)
        return x0.contiguous(memory_format=self.format), random.local(changes.augment_labels).to(
            x0
        )

    def labels(self, batch: Batch, random: RandomNumbers) -> Tensor | None:
        """Labels (b,), each replaced by the null label with probability `label_dropout`."""
        if self.num_classes == 0:
            return None
        assert "label" in batch
        label = batch["label"]
        dropped = random.local(random.uniform("label")) < self.label_dropout
        return label.masked_fill(dropped.to(label.device), self.num_classes)

    def configure_optimizers(self) -> Any:
        settings, steps = self.optimizer_settings, self.trainer.max_steps
        optimizer = settings.build(self.denoiser.network)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: settings.factor(k, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def on_train_end(self) -> None:
        """RuntimeError where the weights of the ranks differ."""
        check_weights_agree(self.trainer, self)

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


def check_weights_agree(trainer: L.Trainer, module: L.LightningModule) -> None:
    """RuntimeError where the ranks of a trainer hold different weights of `module`."""
    if trainer.world_size == 1:
        return
    mine = torch.tensor(checksum(module), device=module.device)
    found = set(trainer.strategy.all_gather(mine).flatten().tolist())
    if len(found) > 1:
        raise RuntimeError(f"the {trainer.world_size} devices ended with different weights")
    log.info("all %d devices hold the same weights, %016x", trainer.world_size, found.pop())


def checksum(module: nn.Module) -> int:
    """63 bits of the SHA-256 of a module's parameters and buffers."""
    tensors = (tensor for _, tensor in sorted(module.state_dict().items()))
    return int(sha256(tensors)[:16], 16) >> 1
