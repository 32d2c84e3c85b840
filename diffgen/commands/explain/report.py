"""An explanation as lines for a person, and as plain data for a program."""

import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console

from diffgen.commands.explain.cost import Cost
from diffgen.commands.explain.explanation import Explanation
from diffgen.commands.explain.ladder import Ladder
from diffgen.commands.explain.own_sampler import OwnSampler
from diffgen.dataset.images import listed

Rows = list[tuple[str, str]]

SWEEP = (10, 20, 50)  # evaluations per image of a sweep that costs are projected for


def show(found: Explanation, num_samples: int) -> None:
    """Print an explanation; times are projected for `num_samples` images a row."""
    console = Console(highlight=False, soft_wrap=True)
    sections = {
        "configuration": configuration(found),
        "schedule": schedule(found),
        "sampling": sampling(found.sampler) if found.sampler else [],
        "cost": cost(found.cost, found.sampler, num_samples) if found.cost else [],
    }
    for title, rows in sections.items():
        if rows:
            console.print(f"\n[bold]{title}[/bold]")
            print_rows(rows)
    for line in found.warnings:
        console.print("\n" + filled(f"[bold yellow]warning:[/bold yellow] {line}", 2))


def print_rows(rows: Rows) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for title, text in rows:
        console.print(filled(f"  {title:<20} {text}", 23), markup=False)


def configuration(found: Explanation) -> Rows:
    config, data = found.config, found.data
    model, trainer, optimizer = config["model"], config["trainer"], config["optimizer"]
    count = f", {len(data.images)} images" if data.images else " (not at hand, not measured)"
    classes = f"{data.num_classes} classes" if data.num_classes else "no labels"
    if data.images and data.num_classes:
        classes += f" ({listed(data.images.classes)})"
    shape = " x ".join(map(str, data.shape))
    averages = [f"{name}: {settings_text(profile)}" for name, profile in config["ema"].items()]
    return [
        ("recipe", found.recipe or "none for this model and data set"),
        ("data", f"{data.name}, {shape}, {classes}{count}"),
        ("network", f"{config['network']['name']}, {found.parameters:,} parameters"),
        ("model", settings_text({k: v for k, v in model.items() if k != "labels"})),
        ("optimiser", settings_text(optimizer)),
        ("averages", "; ".join(averages) or "none, samples come from the raw weights"),
        ("training", f"{trainer['max_steps']:,} steps of {trainer['batch_size']} images"),
    ]


def schedule(found: Explanation) -> Rows:
    ladder = found.ladder
    name = found.config["schedule"]["name"]
    rows = [
        ("levels", f"{name}, {ladder.levels or 'any time'}"),
        ("sigma", f"{ladder.sigma[0]:.4g} to {ladder.sigma[-1]:.6g}"),
        ("sqrt(alpha-bar_T)", f"{ladder.terminal_alpha:.4g}"),
        ("signal to noise", f"{ladder.snr[0]:.4g} to {ladder.snr[1]:.4g}"),
        *_neighbours(ladder),
        ("grey levels", f"the least noise is {ladder.u[0] / found.grey:.2f} of 256"),
    ]
    if found.apart is not None and found.distance is not None:
        exact = "exact" if found.distance.exact else "a lower bound"
        rows.append(("technique 1", f"two images lie up to {found.apart:.6g} apart ({exact})"))
    return rows


def sampling(sampler: OwnSampler) -> Rows:
    settings = settings_text(sampler.settings)
    rows = [
        ("sampler", f"{sampler.name}{', ' + settings if settings else ''}"),
        ("steps", f"{sampler.steps}" if sampler.nfe else "its own"),
        (
            "evaluations",
            f"{sampler.nfe} per image" if sampler.nfe else "as many as its tolerance takes",
        ),
    ]
    if sampler.langevin:
        m = sampler.langevin
        least = abs(m.epsilon / m.best - 1) < 1e-6
        best = "the least" if least else f"epsilon {m.best:.3g} would leave {m.least:.4f}"
        rows[2:2] = [
            ("epsilon", f"{m.epsilon:.4g}, {m.inner} steps a level"),
            ("technique 4", f"a level leaves {m.left:.4f} of its variance; {best}"),
        ]
    chosen = {k: v for k, v in sampler.settings.items() if v not in (None, "auto")}
    if chosen.get("convention") == "code":
        del chosen["convention"]
    words = [f"sampler={sampler.name}", *(f"sampler.{k}={_word(v)}" for k, v in chosen.items())]
    rows.append(("from a checkpoint", "diffgen sample sampler=own"))
    return [*rows, ("the same by hand", " ".join(["diffgen sample", *words]))]


def cost(cost: Cost, sampler: OwnSampler | None, num_samples: int) -> Rows:
    measured = f"measured on {cost.rows} images at once, {cost.device}"
    rows = [
        ("a training step", f"{duration(cost.step)} for {cost.batch_size} images ({measured})"),
        ("training", f"{duration(cost.training)} for {cost.max_steps:,} steps"),
        ("an evaluation", f"{duration(cost.evaluation)} per image"),
    ]
    if sampler is None:
        return rows
    counts = {f"{nfe} evaluations": nfe for nfe in SWEEP}
    if sampler.nfe:
        counts[f"{sampler.name}, {sampler.nfe}"] = sampler.nfe
    spent = {name: cost.sampling(nfe, num_samples) for name, nfe in counts.items()}
    rows += [(f"{num_samples} images", f"{duration(s)} by {name}") for name, s in spent.items()]
    return [*rows, ("a sweep of these", duration(sum(spent.values())))]


def plain(found: Explanation) -> dict[str, Any]:
    """An explanation as JSON can hold it."""
    ladder, sampler = found.ladder, found.sampler
    return {
        "config": {k: v for k, v in found.config.items() if k not in ("cost", "num_samples")},
        "recipe": found.recipe,
        "shape": list(found.data.shape),
        "num_classes": found.data.num_classes,
        "parameters": found.parameters,
        "levels": ladder.levels,
        "sigma": [ladder.sigma[0], ladder.sigma[-1]],
        "terminal_alpha": ladder.terminal_alpha,
        "snr": list(ladder.snr),
        "ratio": [min(ladder.ratios), max(ladder.ratios)] if ladder.ratios else None,
        "overlap": [min(ladder.overlaps), max(ladder.overlaps)] if ladder.overlaps else None,
        "distance": found.apart,
        "sampler": sampler and {"name": sampler.name, **sampler.settings},
        "steps": sampler and sampler.steps,
        "nfe": sampler and sampler.nfe,
        "langevin": sampler and sampler.langevin and asdict(sampler.langevin),
        "warnings": found.warnings,
        "cost": found.cost and asdict(found.cost),
    }


def duration(seconds: float) -> str:
    """A time in the unit that a person would take."""
    units = (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))
    for name, size in units:
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {name}"
    return f"{1000 * seconds:.3g} ms"


def _neighbours(ladder: Ladder) -> Rows:
    if not ladder.ratios:
        return []
    ratios, overlaps = sorted(ladder.ratios), sorted(ladder.overlaps)
    return [
        ("ratio of neighbours", _span(ratios[0], ratios[-1], ".5g")),
        ("overlap C", _span(overlaps[0], overlaps[-1], ".4f")),
    ]


def _span(low: float, high: float, form: str) -> str:
    return f"{low:{form}}" if high - low < 1e-6 * high else f"{low:{form}} to {high:{form}}"


def settings_text(settings: Mapping[str, object]) -> str:
    shown = {k: v for k, v in settings.items() if k != "name" and v is not None}
    return ", ".join(f"{key} {_word(value)}" for key, value in shown.items())


def part_text(part: Mapping[str, object]) -> str:
    """A part of a recipe: its choice's name, then its settings."""
    return ", ".join(filter(None, (str(part.get("name", "")), settings_text(part))))


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def filled(line: str, indent: int) -> str:
    return textwrap.fill(line, 99, subsequent_indent=" " * indent)
