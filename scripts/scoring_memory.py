"""How much memory a Fréchet distance takes: features kept, or sums over them.

python scripts/scoring_memory.py sums|kept [dim] [images]
Features are drawn from a normal law, by 400 at a time. Prints the process's peak after each stage.
"""

import resource
import sys
from collections.abc import Iterator

import torch

from diffgen.evaluation.features import Features
from diffgen.evaluation.frechet import FeatureStats
from diffgen.evaluation.metrics import fid
from diffgen.evaluation.reference import Reference
from diffgen.evaluation.scored import Scored
from diffgen.evaluation.stored import InMemory


def main(way: str, dim: int = 2048, count: int = 50_000) -> None:
    """Print the stages."""

    def parts(seed: int) -> Iterator[Features]:
        generator = torch.Generator().manual_seed(seed)
        for rows in torch.arange(count).split(400):
            yield Features(torch.randn(len(rows), dim, generator=generator).double(), None)

    tell("program")
    stats = FeatureStats.over(part.features for part in parts(0))
    tell("sums of the reference")
    images = torch.zeros(count, 1, 1, 1, dtype=torch.uint8)
    scored = Scored.of(images, parts(1), None, keep=way == "kept", logits=False)
    tell("features of the images")
    row = fid(scored, Reference(InMemory(torch.zeros(0, dim)), None, stats, {}))
    tell(f"distance {row['fid']:.6g} and its interval")


def tell(stage: str) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{peak:.2f} GiB after: {stage}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
