"""What training and sampling will take here, from two steps and one call of the denoiser."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffgen.config.parts import TrainerSettings
from diffgen.training.module import Module
from diffgen.training.random_numbers import RandomNumbers

PATIENCE = 4.0  # seconds that one measured step may take


@dataclass(frozen=True)
class Cost:
    """Seconds of a training step of `batch_size` images, and of one evaluation of one image.

    Measured on `rows` images at once and scaled to the whole batch.
    """

    device: str
    rows: int
    step: float
    evaluation: float
    batch_size: int
    max_steps: int

    @property
    def training(self) -> float:
        return self.step * self.max_steps

    def sampling(self, nfe: int, images: int) -> float:
        """Seconds to draw so many images with so many evaluations each."""
        return self.evaluation * nfe * images


def cost_of(module: Module, settings: TrainerSettings) -> Cost:
    """Measure a training step of a module on one image and on many, and then its denoiser."""
    on_gpu = settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    module = module.to(device)
    each = settings.batch_size // settings.accumulate
    _step(module, 1, settings)  # what comes first takes longer
    alone = _timed(lambda: _step(module, 1, settings), device)
    rows = max(1, min(each, int(PATIENCE / alone)))
    step = _timed(lambda: _step(module, rows, settings), device)
    evaluation = _timed(lambda: _evaluate(module, rows, settings), device)
    whole = step * settings.batch_size / rows
    numbers = settings.batch_size, settings.max_steps
    return Cost(device.type, rows, whole, evaluation / rows, *numbers)


def _step(module: Module, rows: int, settings: TrainerSettings) -> None:
    """One step of training on noise, with the gradient's norm and the optimiser."""
    pixels, label = _batch(module, rows)
    draws = RandomNumbers(0, 0, rows, torch.arange(rows))
    network = module.denoiser.network.train()
    optimizer = module.optimizer_settings.build(network)
    with _autocast(pixels.device, settings.precision):
        errors, *_ = module.loss(module.images(pixels, draws), label, draws)
    errors.mean().backward()
    nn.utils.clip_grad_norm_(network.parameters(), settings.clip or 1.0)
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def _evaluate(module: Module, rows: int, settings: TrainerSettings) -> None:
    pixels, _ = _batch(module, rows)
    denoiser, t = module.denoiser.eval(), torch.tensor(1.0, dtype=torch.float64)
    with _autocast(pixels.device, settings.precision):
        denoiser(module.pixel_range.to_model(pixels), t)


def _batch(module: Module, rows: int) -> tuple[Tensor, Tensor | None]:
    device = next(module.parameters()).device
    generator = torch.Generator().manual_seed(0)
    shape = (rows, *module.header["shape"])
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(device)
    label = torch.zeros(rows, dtype=torch.long, device=device) if module.num_classes else None
    return pixels, label


def _timed(action: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    kind = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, kind, enabled=precision != "32-true")
