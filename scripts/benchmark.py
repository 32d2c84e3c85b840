"""Images per second of training: a bare PyTorch loop, `diffgen train`, and diffusers' U-Net.

    python scripts/benchmark.py [--precision bf16-mixed] [--rounds 3] [--steps 40]

All three train the network of `dataset=mnist` on batches of 64 grey images of 28 x 28. The bare
loop only runs forward, backward and AdamW on tensors that are there already; `diffgen train` is
the command itself, in a process of its own, with its data, noise, clipping, averages and log. The
three take turns, and ratios are of medians over the turns. Needs the extra `interop`.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from PIL import Image
from torch import Tensor, nn

from diffgen.model.unet import UNet

SIZE, BATCH, CLASSES = 28, 64, 10
NETWORK = {"width": 16, "multipliers": (1, 2, 4), "blocks": 1, "attention": (7,), "groups": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = write_images(Path(folder))
        runs: dict[str, Callable[[], float]] = {
            "bare PyTorch": lambda: bare(ours(), options.precision, options.steps),
            "diffgen train": lambda: command(images, options.precision, options.steps),
            "diffusers UNet2DModel": lambda: bare(theirs(), options.precision, options.steps),
        }
        speeds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                speeds[name].append(run())
                print(f"{name:22} {speeds[name][-1]:7.1f} images/s", flush=True)
    base = statistics.median(speeds["bare PyTorch"])
    print(f"\n{options.precision}, {torch.get_num_threads()} threads, medians:")
    for name, values in speeds.items():
        median = statistics.median(values)
        print(f"{name:22} {median:7.1f} images/s  {median / base:6.3f} of the bare loop")


def ours() -> nn.Module:
    """The U-Net of `dataset=mnist`."""
    return UNet(channels=1, size=SIZE, num_classes=CLASSES, told=True, **NETWORK)


class Theirs(nn.Module):
    """diffusers' U-Net of the same widths, called as ours is."""

    def __init__(self) -> None:
        super().__init__()
        self.network = UNet2DModel(
            sample_size=SIZE,
            in_channels=1,
            out_channels=1,
            block_out_channels=(16, 48, 96),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            num_class_embeds=CLASSES + 1,
            attention_head_dim=None,
        )

    def forward(self, x: Tensor, told: Tensor, label: Tensor) -> Tensor:
        return self.network(x, told, label).sample


def theirs() -> nn.Module:
    return Theirs()


def bare(network: nn.Module, precision: str, steps: int) -> float:
    """Images per second of forward, backward and step; a fifth of the steps warm up."""
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, foreach=True)
    x, told = torch.randn(BATCH, 1, SIZE, SIZE), torch.rand(BATCH) * 999
    label = torch.randint(0, CLASSES, (BATCH,))
    durations = []
    for _ in range(steps):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true"):
            output = network(x, told, label)
        (output.float() - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        durations.append(time.perf_counter() - start)
    kept = durations[steps // 5 :]
    return BATCH * len(kept) / sum(kept)


def command(images: Path, precision: str, steps: int) -> float:
    """Images per second that `diffgen train` writes into its log, the first row left out."""
    network = [f"network.{key}={_plain(value)}" for key, value in NETWORK.items()]
    with tempfile.TemporaryDirectory() as runs:
        words = [
            *(sys.executable, "-m", "diffgen", "train", "dataset=folder"),
            *(f"dataset.root={images}", f"runs={runs}", *network),
            *(f"trainer.precision={precision}", f"trainer.batch_size={BATCH}"),
            *(f"trainer.max_steps={steps}", f"trainer.log_every={steps // 5}", "preview.every=0"),
        ]
        subprocess.run(words, check=True, capture_output=True)
        with next(Path(runs).rglob("metrics.csv")).open() as file:
            speeds = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    return len(speeds[1:]) / sum(1 / speed for speed in speeds[1:])


def write_images(folder: Path) -> Path:
    """A zip of 1,000 random grey images in ten classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (1000, SIZE, SIZE), np.uint8)
    path = folder / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index, image in enumerate(pixels):
            file = BytesIO()
            Image.fromarray(image).save(file, "png")
            archive.writestr(f"{index % CLASSES}/{index}.png", file.getvalue())
    return path


def _plain(value: object) -> str:
    return str(value).replace(" ", "").replace("(", "[").replace(",)", "]").replace(")", "]")


if __name__ == "__main__":
    main()
