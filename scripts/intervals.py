"""How often intervals of a Fréchet distance hold its mean over sets of images of one law.

    python scripts/intervals.py

Features are normal, with the spectrum 1 / k, scaled and shifted; the reference is 4,000 features
of the law itself. The truth of a row is the mean distance of its sets of n images. Prints a row of
a table for each law and n.
"""

import torch

from diffgen.evaluation.frechet import FeatureStats, distance
from diffgen.evaluation.influence import influence

SETS = 200
SIZES = ((32, 1000), (64, 2000), (64, 200), (64, 60))  # features, images
LAWS = {"perfect": (1.0, 0.0), "near": (1.05, 0.05), "far": (1.2, 0.2)}  # scale, shift


def main() -> None:
    print("| features | n | law | distance | deviation | by intervals | held |")
    print("|---:|---:|:---|---:|---:|---:|---:|")
    for features, n in SIZES:
        for law in LAWS:
            print(
                f"| {features} | {n} | {law} | {simulated(features, n, *LAWS[law])} |", flush=True
            )


def simulated(features: int, n: int, scale: float, shift: float) -> str:
    """The cells of a row, from the mean distance on."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, features + 1).double() ** -0.5

    def drawn(count: int) -> torch.Tensor:
        return torch.randn(count, features, generator=generator).double() * spectrum

    reference, found, half = FeatureStats.of(drawn(4000)), [], []
    for _ in range(SETS):
        mine = scale * drawn(n) + shift * spectrum
        stats = FeatureStats.of(mine)
        found.append(distance(stats, reference))
        half.append(influence(mine, None, stats, reference).half_width)
    values, widths = torch.tensor(found), torch.tensor(half)
    held = ((values - values.mean()).abs() <= widths).double().mean()
    figures = values.mean(), values.std(), widths.mean() / 1.96
    return " | ".join([*(f"{float(value):.3g}" for value in figures), f"{100 * held:.1f} %"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
