"""Images per second of training: a bare PyTorch loop, `diffgen train`, and diffusers' U-Net.

    python scripts/benchmark.py [--precision bf16-mixed] [--rounds 15] [--steps 10]

All three train the network of `dataset=mnist` on batches of 64 grey images of 28 x 28. The bare
loop only runs forward, backward and AdamW on tensors that are there already; `diffgen train` is
the command itself, in a process of its own, with its data, noise, clipping, averages and log.
They take turns of a few seconds, the command's process standing still between its own, and each
round gives the ratio of neighbours in time, so that a machine whose speed drifts harms none of
them: told are the medians of these ratios and their quartiles. Needs the extra `interop`.
"""

import argparse
import csv
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from PIL import Image
from torch import Tensor, nn

from diffgen.network.unet import UNet

SIZE, BATCH, CLASSES = 28, 64, 10
WIDTH, MULTIPLIERS = 16, (1, 2, 4)
NETWORK = {
    **{"width": WIDTH, "multipliers": MULTIPLIERS},
    **{"blocks": 1, "attention": (7,), "groups": 8},
}
POLL = 0.5  # seconds between looks at the command's log, each of which takes a core from it
WARM_UP = 2  # steps at the start of a turn that are not counted

Turn = Callable[[], float]  # images per second


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    precision, steps = options.precision, options.steps
    with tempfile.TemporaryDirectory() as folder, command(Path(folder), precision, steps) as turn:
        turns = {
            "bare PyTorch": bare(ours(), precision, steps),
            "diffgen train": turn,
            "diffusers UNet2DModel": bare(Theirs(), precision, steps),
        }
        for each in turns.values():
            each()
        rounds = [around(turns, number) for number in range(options.rounds)]
    print(f"{precision}, {torch.get_num_threads()} threads, {len(rounds)} rounds of {steps} steps")
    for name in turns:
        speed = statistics.median(speeds[name] for speeds in rounds)
        ratios = [speeds[name] / speeds["bare PyTorch"] for speeds in rounds]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{name:22} {speed:7.1f} images/s  {middle:.3f} of the bare loop "
            f"({low:.3f} to {high:.3f})"
        )


def around(turns: dict[str, Turn], number: int) -> dict[str, float]:
    """The speed of each in a round; every second one goes the other way round."""
    names = list(turns) if number % 2 else list(reversed(turns))
    speeds = {name: turns[name]() for name in names}
    told = "  ".join(f"{name} {speeds[name]:.1f}" for name in turns)
    print(f"round {number + 1:3}  {told}", file=sys.stderr, flush=True)
    return speeds


def ours() -> nn.Module:
    """The U-Net of `dataset=mnist`."""
    return UNet(channels=1, size=SIZE, num_classes=CLASSES, has_noise_input=True, **NETWORK)


class Theirs(nn.Module):
    """diffusers' U-Net of the same widths, called as ours is."""

    def __init__(self) -> None:
        super().__init__()
        self.network = UNet2DModel(
            sample_size=SIZE,
            in_channels=1,
            out_channels=1,
            block_out_channels=tuple(WIDTH * k for k in MULTIPLIERS),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            num_class_embeds=CLASSES + 1,
            attention_head_dim=None,
        )

    def forward(self, x: Tensor, told: Tensor, label: Tensor) -> Tensor:
        return self.network(x, told, label).sample


def bare(network: nn.Module, precision: str, steps: int) -> Turn:
    """Turns of forward, backward and step."""
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, foreach=True)
    x, told = torch.randn(BATCH, 1, SIZE, SIZE), torch.rand(BATCH) * 999
    label = torch.randint(0, CLASSES, (BATCH,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true"):
            output = network(x, told, label)
        (output.float() - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def turn() -> float:
        for _ in range(WARM_UP):
            step()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return BATCH * steps / (time.perf_counter() - start)

    return turn


@contextmanager
def command(folder: Path, precision: str, steps: int) -> Iterator[Turn]:
    """Turns of `diffgen train`: its own figure for `steps` steps, written into its log."""
    words = [
        *(sys.executable, "-m", "diffgen", "train", "dataset=folder"),
        *(f"dataset.root={write_images(folder)}", f"runs={folder}", "preview.every=0"),
        *(f"network.{key}={_plain(value)}" for key, value in NETWORK.items()),
        *(f"trainer.precision={precision}", f"trainer.batch_size={BATCH}"),
        *("trainer.max_steps=1000000", f"trainer.log_every={steps}"),
    ]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)

    def rows() -> list[str]:
        logs = [path.read_text() for path in folder.rglob("metrics.csv")]
        return [row["images_per_second"] for log in logs for row in csv.DictReader(log.split())]

    def wait_for_rows(count: int) -> None:
        while len(rows()) < count:
            if process.poll() is not None:
                raise SystemExit("diffgen train ended too soon")
            time.sleep(POLL)

    def turn() -> float:
        seen = len(rows())
        process.send_signal(signal.SIGCONT)
        wait_for_rows(seen + 2)  # the first one counts the time that it stood still
        process.send_signal(signal.SIGSTOP)
        return float(rows()[seen + 1])

    try:
        yield turn
    finally:
        process.kill()
        process.wait()


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
