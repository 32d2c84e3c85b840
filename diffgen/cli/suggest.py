"""Mistaken words and those most like them."""

from collections.abc import Collection
from difflib import get_close_matches


def near(word: str, words: Collection[str], otherwise: Collection[str] = ()) -> str:
    """What to add about the words most like a mistaken one, by their last parts if need be.

    Where none is like it, all of `otherwise` are named.
    """
    found = get_close_matches(word, words, 2, 0.75)
    if not found:
        last = get_close_matches(tail(word), {tail(w) for w in words}, 1, 0.6)
        found = [w for w in words if tail(w) in last][:2]
    if found:
        return f"; did you mean {' or '.join(found)}?"
    return f"; there are {', '.join(otherwise)}" if otherwise else ""


def tail(key: str) -> str:
    """The last part of a dotted key."""
    return key.rpartition(".")[2]
