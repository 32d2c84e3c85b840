"""How much wider than the data annealed Langevin dynamics leave it: the table of docs/langevin.md.

    python scripts/langevin_bias.py

On Gaussian data of deviation s a move at a level takes the variance V to (1 - a / P)^2 V + 2 a,
P = alpha^2 s^2 + sigma^2 (Song and Ermon 2020, proposition 3); the final denoising step multiplies
the deviation by alpha s^2 / P. No network is asked and nothing is drawn.
"""

from itertools import pairwise

from diffgen.sampler.langevin import Langevin
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.linear import Linear
from diffgen.schedule.spacing import linspace

DEVIATION = 0.5
LEVELS = (20, 40, 80, 160)
COLUMNS = ((5, None), (30, None), (30, 0.1), (100, 0.1))  # moves, step over sigma^2 (None: auto)
SCHEDULES = {"variance preserving": None, "variance exploding": 50.0}  # sigma_max, None: DDPM's


def main() -> None:
    titles = [f"{n} moves, {'auto' if rate is None else rate}" for n, rate in COLUMNS]
    for name, top in SCHEDULES.items():
        print(f"\n| {name}: levels | {' | '.join(titles)} |")
        print("|" + "---|" * (len(COLUMNS) + 1))
        for levels in LEVELS:
            cells = [f"{deviation(top, levels, *column):.3f}" for column in COLUMNS]
            print(f"| {levels} | {' | '.join(cells)} |")


def deviation(sigma_max: float | None, levels: int, inner: int, rate: float | None) -> float:
    """The deviation that samples have after `inner` moves at each of so many levels."""
    schedule = Geometric(sigma_max=sigma_max, levels=levels) if sigma_max else Linear()
    times = linspace(schedule, levels)
    rate = Langevin(inner=inner).rate(schedule, times) if rate is None else rate
    variance = float(schedule.sigma(times[0])) ** 2
    for t, s in pairwise(times):
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        width = alpha**2 * DEVIATION**2 + sigma**2
        move = rate * sigma**2
        for _ in range(inner):
            variance = (1 - move / width) ** 2 * variance + 2 * move
        if s == 0:
            variance *= (alpha * DEVIATION**2 / width) ** 2
    return variance**0.5


if __name__ == "__main__":
    main()
