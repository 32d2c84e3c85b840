"""What a guided step costs: one call of 2 B rows against two single evaluations of B rows.

python scripts/guided_cost.py [batch] [rounds]
Prints, round by round, the median time of a guided evaluation over that of two single ones, and
the smallest ratio. DDPM's U-Net for CIFAR-10, class-conditional, at half its width.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from diffgen.denoiser import Preconditioned
from diffgen.denoiser.noise_input import level
from diffgen.denoiser.prediction import Eps
from diffgen.guidance.classifier_free import ClassifierFree
from diffgen.network.unet import UNet
from diffgen.schedule.linear import Linear

REPEATS = 5


def seconds(evaluate: Callable[[], Tensor]) -> float:
    """How long one evaluation takes."""
    start = time.perf_counter()
    evaluate()
    return time.perf_counter() - start


@torch.inference_mode()
def main(batch: int = 16, rounds: int = 5) -> None:
    """Print the ratios."""
    network = UNet(channels=3, size=32, num_classes=10, width=64).eval()
    plain = Preconditioned(network, Linear(), Eps(), level)
    guided = ClassifierFree(plain, null=10, weight=1.0)
    x_t, t = torch.randn(batch, 3, 32, 32), torch.tensor(0.5, dtype=torch.float64)
    label = torch.arange(batch) % 10
    for warm_up in (plain, guided):
        warm_up(x_t, t, label)
    ratios = []
    for _ in range(rounds):
        pairs = [
            (seconds(lambda: plain(x_t, t, label)), seconds(lambda: guided(x_t, t, label)))
            for _ in range(REPEATS)
        ]
        single, double = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratios.append(double / (2 * single))
        print(f"single {1e3 * single:.1f} ms, guided {1e3 * double:.1f} ms, {ratios[-1]:.3f}")
    print(f"a guided step costs {min(ratios):.3f} of two single evaluations (batch {batch})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
