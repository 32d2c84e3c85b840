"""What stands above a table: what all its rows share, and what is written behind its figures."""

from diffgen.evaluation.influence import best_rows
from diffgen.evaluation.rows import Block, setting, title

ERRORS = {  # behind a figure: the column, its head, and what it is
    "fid_error": ("{fid}", "interval of 95 %"),
    "kid_error": ("KID", "standard error"),
    "is_std": ("IS", "deviation over ten parts"),
}


def header(block: Block) -> str:
    """What all rows share, in one or two sentences."""
    row = block.all[0]
    scored = (
        f"{title(row)} of n = {block.n} images a row, features {row['features']} "
        f"[{row['features_hash']}], against {row['reference']} [{row['reference_hash']}]."
    )
    first = block.rows[0] if block.rows else {}
    same = [c for c in block.shared if first.get(c) is not None and c not in block.differing]
    if not same:
        return scored
    return f"{scored} All samples: {', '.join(f'{c} {setting(first[c])}' for c in same)}."


def legend(block: Block) -> str:
    """What ± and the marks of the best rows mean, in sentences after a space, or nothing."""
    behind = [
        f"{head.format(fid=title(block.all[0]))} ± {what}"
        for column, (head, what) in ERRORS.items()
        if any(row.get(column) is not None for row in block.all)
    ]
    errors = f" {', '.join(behind)}." if behind else ""
    marked = " Marked: the least distance, and what is not told apart from it."
    return errors + (marked if best_rows(block.rows) else "")
