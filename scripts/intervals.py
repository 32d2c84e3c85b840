"""How often intervals of a Fréchet distance hold its mean over sets of images of one law.

    python scripts/intervals.py

Features are normal, with the spectrum 1 / k, scaled and shifted; where there are classes, each
adds a centre of its own, and sets take all classes in the same shares. The reference is 4,000
features of the law itself. The truth of a row is the mean distance of its sets of n images. Pairs
of sets share half of their noise. The bootstrap draws 50 times from each of the first 100 sets,
within classes, for a deviation. Prints a row of a table for each law and n.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.evaluation.frechet import FeatureStats, distance
from diffgen.evaluation.influence import Z95, influence, told_apart

SETS, RESAMPLED, DRAWS = 400, 100, 50
SIZES = (  # features, images, classes
    *((4, 1000, 1), (8, 1000, 1), (16, 100, 1), (32, 1000, 1), (64, 2000, 1), (64, 200, 1)),
    *((64, 60, 1), (256, 200, 1), (64, 1000, 10), (64, 359, 10), (16, 300, 100)),
)
LAWS = {"perfect": (1.0, 0.0), "near": (1.05, 0.05), "far": (1.2, 0.2)}  # scale, shift
HEADS = (
    *("features", "n", "classes", "law", "distance", "deviation"),
    *("by intervals", "held", "by bootstrap", "held", "pairs told apart"),
)


def main() -> None:
    print(f"| {' | '.join(HEADS)} |\n|" + " ---: |" * len(HEADS))
    for features, n, classes in SIZES:
        for name, law in LAWS.items():
            told = simulated(Law(features, n, classes, *law))
            print(f"| {features} | {n} | {classes} | {name} | {' | '.join(told)} |", flush=True)


@dataclass(frozen=True)
class Law:
    """Features of a model: those of the reference, scaled about their classes and shifted."""

    features: int
    n: int
    classes: int
    scale: float
    shift: float

    def sets(self) -> Iterator[tuple[FeatureStats, Tensor, tuple[Tensor, Tensor]]]:
        """The reference, the labels of a set, and pairs of sets (n, features)."""
        generator = torch.Generator().manual_seed(0)
        spectrum = torch.arange(1, self.features + 1).double() ** -0.5

        def normal(count: int) -> Tensor:
            return torch.randn(count, self.features, generator=generator).double() * spectrum

        centres = 2 * normal(self.classes) * (self.classes > 1)
        labels = torch.arange(4000) % self.classes
        reference, labels = FeatureStats.of(normal(4000) + centres[labels]), labels[: self.n]
        for _ in range(SETS):
            both = normal(self.n)
            noise = [(normal(self.n) + both) / 2**0.5 for _ in range(2)]
            one, other = (self.scale * x + self.shift * spectrum + centres[labels] for x in noise)
            yield reference, labels, (one, other)


def simulated(law: Law) -> list[str]:
    """The cells of a row, from the mean distance on."""
    found, half, resampled, apart = [], [], [], 0
    for reference, labels, pair in law.sets():
        stats = [FeatureStats.of(each) for each in pair]
        distances = [distance(each, reference) for each in stats]
        moved = [
            influence(each, labels, own, reference) for each, own in zip(pair, stats, strict=True)
        ]
        found.append(distances[0])
        half.append(moved[0].error(distances[0]))
        apart += told_apart(distances[1] - distances[0], moved[1] - moved[0])
        if len(resampled) < RESAMPLED:
            resampled.append(Z95 * bootstrap(pair[0], labels, reference))
    values, truth = torch.tensor(found), sum(found) / SETS
    cells = [f"{truth:.3g}", f"{float(values.std()):.3g}"]
    for widths in (half, resampled):
        held = sum(abs(x - truth) <= w for x, w in zip(found, widths, strict=False)) / len(widths)
        cells += [f"{sum(widths) / len(widths) / Z95:.3g}", f"{100 * held:.1f} %"]
    return [*cells, f"{100 * apart / SETS:.1f} %"]


def bootstrap(mine: Tensor, labels: Tensor, reference: FeatureStats) -> float:
    """The deviation of the distances of sets drawn from this one, with repetition."""
    generator, found = torch.Generator().manual_seed(1), []
    members = [(labels == k).nonzero().flatten() for k in labels.unique().tolist()]
    for _ in range(DRAWS):
        drawn = [m[torch.randint(len(m), (len(m),), generator=generator)] for m in members]
        found.append(distance(FeatureStats.of(mine[torch.cat(drawn)]), reference))
    return float(torch.tensor(found).std())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
