"""The picture of an explanation: the schedule, its levels, and the model's own sampler."""

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffgen.commands.explain.ladder import Ladder
from diffgen.commands.explain.own_sampler import LangevinSteps, OwnSampler
from diffgen.files import write_atomically
from diffgen.sampler.langevin import variance_ratio

BLUE, RED, GREY = "#0072B2", "#D55E00", "0.45"


def draw(
    path: Path, ladder: Ladder, sampler: OwnSampler | None, grey: float, distance: float | None
) -> None:
    """Write the picture as a PNG; `grey` and `distance` are those of warnings.py."""
    count = 3 if sampler else 2
    figure = Figure(figsize=(4.5 * count, 3.9), layout="constrained")
    panels = figure.subplots(1, count)
    _scales(panels[0], ladder)
    _noise(panels[1], ladder, grey, distance)
    if sampler and sampler.langevin and ladder.levels:
        _langevin(panels[2], sampler.langevin, ladder)
    elif sampler:
        _times(panels[2], sampler)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", lw=0.6)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=140))


def _scales(axes: Axes, ladder: Ladder) -> None:
    axes.plot(ladder.t, ladder.alpha, color=BLUE, label="alpha, of the image")
    axes.plot(ladder.t, ladder.sigma, color=RED, label="sigma, of the noise")
    axes.set(title="the schedule", xlabel="t", ylabel="scale")
    axes.set_yscale("log" if ladder.exploding else "linear")
    axes.legend(frameon=False)


def _noise(axes: Axes, ladder: Ladder, grey: float, distance: float | None) -> None:
    style = "." if ladder.levels and ladder.levels <= 120 else "-"
    axes.plot(ladder.t, ladder.u, style, color=BLUE, ms=4)
    axes.axhline(grey, color=GREY, ls=":", lw=1, label="one grey level of 256")
    if distance is not None:
        axes.axhline(distance, color=RED, ls="--", lw=1, label="the images farthest apart")
    axes.set(title="noise over signal", xlabel="t", ylabel="sigma / alpha", yscale="log")
    axes.legend(frameon=False, loc="center right")


def _langevin(axes: Axes, langevin: LangevinSteps, ladder: Ladder) -> None:
    """Technique 4: what a level leaves of its own variance, against the step size."""
    lowest = ladder.sigma[0] ** 2
    rates = torch.logspace(-4, 0, 400, dtype=torch.float64)
    for inner, colour in ((langevin.inner, BLUE), (10 * langevin.inner, GREY)):
        left = variance_ratio(rates, langevin.ratio, inner)
        axes.plot(rates * lowest, left, color=colour, label=f"{inner} steps a level")
    axes.plot(
        langevin.epsilon, langevin.left, "o", color=RED, label=f"epsilon = {langevin.epsilon:.3g}"
    )
    axes.set(title="technique 4", xlabel="epsilon", ylabel="variance left / sigma^2")
    axes.set(xscale="log", ylim=(0.98, max(1.5, 1.1 * langevin.left)))
    axes.legend(frameon=False)


def _times(axes: Axes, sampler: OwnSampler) -> None:
    axes.plot(range(len(sampler.times)), sampler.times, ".-", color=BLUE, ms=4, lw=0.8)
    axes.set(title=f"{sampler.name}: {sampler.steps} steps", xlabel="step", ylabel="t")
