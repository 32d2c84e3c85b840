"""Whether the processes of a run ended with one and the same network."""

import logging

import lightning.pytorch as L
import torch
from torch import nn

from diffgen.files import sha256

log = logging.getLogger(__name__)


class Agreement(L.Callback):
    """At the end of training compares the weights of all ranks; RuntimeError where they differ."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.world_size == 1:
            return
        mine = torch.tensor(checksum(pl_module), device=pl_module.device)
        found = set(trainer.strategy.all_gather(mine).flatten().tolist())
        if len(found) > 1:
            raise RuntimeError(f"the {trainer.world_size} devices ended with different weights")
        log.info("all %d devices hold the same weights, %016x", trainer.world_size, found.pop())


def checksum(module: nn.Module) -> int:
    """63 bits of the SHA-256 of a module's parameters and buffers."""
    tensors = (tensor for _, tensor in sorted(module.state_dict().items()))
    return int(sha256(tensors)[:16], 16) >> 1
