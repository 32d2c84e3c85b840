"""How far a figure is off by chance, from what it is without one block of its images each.

The jackknife of Quenouille and Tukey: Efron, The Jackknife, the Bootstrap and Other Resampling
Plans (1982), equation 3.1. Rows whose blocks hold the same seeds are compared in pairs: what
the same noise does to both of them drops out of their difference.
"""

from collections.abc import Sequence
from statistics import fmean

BLOCKS = 10
T95 = 2.2621571628  # of Student's t with 9 degrees of freedom, two-sided 95 %


def deviation(without: Sequence[float]) -> float:
    """The standard deviation of a figure with these values without one block each."""
    count, mean = len(without), fmean(without)
    return ((count - 1) / count * sum((value - mean) ** 2 for value in without)) ** 0.5


def half_width(without: Sequence[float]) -> float:
    """Half the length of the interval that covers a figure's mean in 95 % of sets of images."""
    return T95 * deviation(without)


def told_apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two figures differ by more than chance, by their values without the same blocks."""
    differences = [a - b for a, b in zip(one, other, strict=True)]
    return abs(fmean(differences)) > half_width(differences)
