"""What in a configuration is likely to disappoint: one line for each, with the remedy."""

import math
from collections.abc import Iterator, Mapping

from diffgen.commands.explain.ladder import Ladder
from diffgen.schedule import Schedule
from diffgen.schedule.discrete import Ramp
from diffgen.schedule.ncsnv2 import levels_between, ratio_of
from diffgen.training.ema import EmaSettings

APART = 0.25  # overlaps C below it leave gaps; the papers' ladders have 0.5 and more
VISIBLE = 5.0  # grey levels of 256 that an eye sees on an even surface
RANDOM = 1e-3  # the share of first weights in an average that shows in samples
SHARE = 0.5  # of the largest distance between images, below which sigma_max is small


def warnings_of(
    schedule: Schedule, ladder: Ladder, dimension: int, grey: float, distance: float | None
) -> list[str]:
    """Warnings; `grey` is one grey level and `distance` technique 1's, both in the model's range.

    `distance` is None where the data was not measured.
    """
    return [
        *_gaps(ladder, dimension),
        *_visible(ladder, grey),
        *_narrow(ladder, distance),
        *_short(schedule, ladder),
    ]


def ema_warnings(averages: Mapping[str, EmaSettings], steps: int) -> list[str]:
    """Warnings of averages that still hold the first random weights after so many steps."""
    remaining = {
        name: math.prod(map(profile.beta(), range(1, steps + 1)))
        for name, profile in averages.items()
    }
    return [
        f"{100 * share:.2g} % of the average {name!r} are the first random weights, after "
        f"{steps} steps: ema.{name}.warmup=true forgets them, or train for longer"
        for name, share in remaining.items()
        if share > RANDOM
    ]


def _gaps(ladder: Ladder, dimension: int) -> Iterator[str]:
    if ladder.exploding and ladder.overlaps and min(ladder.overlaps) < APART:
        enough = levels_between(ladder.u[-1], ladder.u[0], ratio_of(0.5, dimension))
        yield (
            f"neighbouring levels do not overlap (C = {min(ladder.overlaps):.3f} at a ratio of "
            f"{max(ladder.ratios):.4f}): Langevin dynamics lose the way between them; technique 2 "
            f"asks for {enough:.0f} levels from {ladder.u[0]:g} to {ladder.u[-1]:g}"
        )


def _visible(ladder: Ladder, grey: float) -> Iterator[str]:
    if ladder.u[0] / grey > VISIBLE:
        remedy = "schedule.sigma_min" if ladder.exploding else "the first betas"
        yield (
            f"the last level is visible: its noise is {ladder.u[0] / grey:.1f} grey levels of "
            f"256, and finer detail is never learned; lower {remedy}, or take more levels"
        )


def _narrow(ladder: Ladder, distance: float | None) -> Iterator[str]:
    if distance is not None and ladder.u[-1] < SHARE * distance:
        yield (
            f"the greatest noise, {ladder.u[-1]:.4g}, is small against the data, whose images lie "
            f"up to {distance:.4g} apart: samples will crowd around few of them; technique 1 "
            "takes that distance (schedule=ncsnv2 measures it)"
        )


def _short(schedule: Schedule, ladder: Ladder) -> Iterator[str]:
    if isinstance(schedule, Ramp) and not schedule.rescale and schedule.levels < 1000:
        yield (
            f"the ends of beta are not rescaled for {schedule.levels} levels: "
            f"{ladder.terminal_alpha:.3f} of the image's scale is left at the last one; "
            f"schedule.rescale=true multiplies them by 1000/{schedule.levels}"
        )
