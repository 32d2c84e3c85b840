"""A table as a reader sees it: headers and cells as text."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from diffgen.evaluation.rows import Block, Row, pooled, setting, text, varying

ALWAYS = ("sampler", "settings", "steps", "weight")  # columns of every table
SHARES = ("accuracy", "precision", "recall", "saturation")

Grid = tuple[list[str], list[list[str]]]
Column = tuple[str, Callable[[Row], str]]


def title(row: Row) -> str:
    """`FID` for Inception's features, else `FD(extractor)`."""
    name = row["features"]
    return "FID" if name.startswith("inception") else f"FD({name})"


def header(block: Block) -> str:
    """What all rows share, in one or two sentences."""
    row = block.all[0]
    scored = (
        f"{title(row)} of n = {block.n} images a row, features {row['features']} "
        f"[{row['features_hash']}], against {row['reference']} [{row['reference_hash']}]."
    )
    first = block.rows[0] if block.rows else {}
    same = [c for c in _shared(block) if first.get(c) is not None and c not in _differing(block)]
    if not same:
        return scored
    return f"{scored} All samples: {', '.join(f'{c} {first[c]}' for c in same)}."


def main_cells(block: Block) -> Grid:
    """Headers and rows of the block, without columns that are empty or alike in all rows."""
    floor = (block.floor or {}).get("fid")
    columns: list[Column] = [
        *_methods(block),
        (title(block.all[0]), lambda row: _number(row.get("fid"))),
        ("/ real", lambda row: _ratio(row.get("fid"), floor)),
        ("KID", lambda row: _number(row.get("kid"))),
        *((name, _share(name)) for name in SHARES),
        ("worst class", _worst),
        ("images/s", lambda row: _number(row.get("images_per_second"))),
    ]
    return _grid(columns, block.all)


def over_seeds(block: Block) -> Grid | None:
    """Headers and rows of the settings sampled with several seeds, None without any."""
    rows = [row for row in pooled(block.rows) if row["seeds"] > 1]
    if not rows:
        return None
    floor = (block.floor or {}).get("fid")
    columns: list[Column] = [
        *_methods(replace(block, rows=rows)),
        ("seeds", _plain("seeds")),
        (f"mean {title(rows[0])}", lambda row: _number(row["fid"])),
        ("deviation", lambda row: _number(row["deviation"])),
        ("/ real", lambda row: _ratio(row["fid"], floor)),
    ]
    return _grid(columns, rows)


def per_class(block: Block) -> Grid | None:
    """Headers and rows of the distances per class, None where there are none."""
    rows = [row for row in block.all if row.get("fid_per_class")]
    if not rows:
        return None
    classes = sorted({label for row in rows for label in row["fid_per_class"]}, key=_by_number)
    distances = [(label, _distance(label)) for label in classes]
    return _grid([*_methods(block), *distances], rows)


def _methods(block: Block) -> list[Column]:
    """The columns that tell one way of sampling from another."""
    return [
        ("sampler", lambda row: row["sampler"]),
        *((column, _plain(column)) for column in _differing(block)),
        ("settings", lambda row: setting(row.get("settings"))),
        ("steps", _plain("steps")),
        ("NFE", _plain("nfe")),
        ("w", lambda row: _number(row.get("weight"))),
        ("1 + w", lambda row: _number(row.get("scale"))),
    ]


def _differing(block: Block) -> list[str]:
    return varying(block.rows, _shared(block))


def _shared(block: Block) -> list[str]:
    """The columns that are shown only where rows differ in them."""
    return [column for column in (*block.identity, "seed") if column not in ALWAYS]


def _grid(columns: Sequence[Column], rows: Sequence[Row]) -> Grid:
    full = [(head, [cell(row) for row in rows]) for head, cell in columns]
    kept = [(head, body) for head, body in full if any(body)]
    lines = zip(*(body for _, body in kept), strict=True)
    return [head for head, _ in kept], [list(line) for line in lines]


def _plain(column: str) -> Callable[[Row], str]:
    return lambda row: text(row.get(column))


def _share(column: str) -> Callable[[Row], str]:
    return lambda row: "" if row.get(column) is None else f"{row[column]:.3f}"


def _distance(label: str) -> Callable[[Row], str]:
    return lambda row: _number(row["fid_per_class"].get(label))


def _worst(row: Row) -> str:
    """The class farthest from the reference's images of it, and how far that is."""
    distances = row.get("fid_per_class") or {}
    if not distances:
        return ""
    label = max(distances, key=distances.__getitem__)
    return f"{label}: {_number(distances[label])}"


def _number(value: Any) -> str:
    """Four significant digits, for 0.0123 and 431 alike."""
    return "" if value is None else f"{value:.4g}"


def _ratio(value: float | None, floor: float | None) -> str:
    return f"{value / floor:.3g}" if value is not None and floor else ""


def _by_number(label: str) -> tuple[int, str]:
    return (int(label), "") if label.isdigit() else (2**62, label)
