"""What a checkpoint says of itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from diffgen.commands.explain.report import Rows, filled, settings_text
from diffgen.runs.checkpoint import Checkpoint, load
from diffgen.runs.locate import locate


def tell(name: str, runs: Path) -> None:
    """Print a checkpoint's recipe, and of an imported one what was assumed of its files."""
    found = load(locate(name, runs))
    console = Console(highlight=False, soft_wrap=True)
    for title, text in rows(found):
        console.print(filled(f"  {title:<20} {text}", 23), markup=False)


def rows(found: Checkpoint) -> Rows:
    """Its parts, each on a line."""
    recipe, states = found.recipe, found.states
    count = sum(value.numel() for value in (states["raw"] | found.weights()).values())
    shape = " x ".join(map(str, found.shape))
    classes = f"{len(found.classes)} classes" if found.classes else "no labels"
    averages = ", ".join(name for name in states if name != "raw") or "none"
    return [
        ("file", str(found.path)),
        ("hash", found.hash[:16]),
        ("data", f"{recipe.get('dataset', {}).get('name', 'unknown')}, {shape}, {classes}"),
        ("step", f"{found.step:,}"),
        ("averages", averages),
        ("parameters", f"{count:,}"),
        *_parts(recipe),
        *_origin(recipe),
    ]


def _parts(recipe: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key in ("model", "schedule", "prediction", "network"):
        if isinstance(part := recipe.get(key), dict):
            yield key, ", ".join(filter(None, (str(part.get("name")), settings_text(part))))


def _origin(recipe: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if recipe.get("init"):
        chosen = recipe.get("init_ema") or "its average"
        yield "begun from", f"{recipe['init']}, {chosen}, hash {str(recipe.get('init_hash'))[:16]}"
    origin = recipe.get("imported")
    if isinstance(origin, dict):
        yield "imported", f"from {origin.get('file')}, a file of {origin.get('kind')}"
        yield from (("imported", str(said)) for said in origin.get("said", ()))
