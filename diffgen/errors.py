"""The one exception that means: the request was wrong, and this line says how to mend it."""

from collections.abc import Collection
from difflib import get_close_matches
from typing import NoReturn

FAILURE_FILE = "failed.json"  # in the folder of a job of a sweep: its settings and why it failed


class UsageError(ValueError):
    """A request that cannot be met as it stands; its text is one line with the remedy.

    The command prints it on stderr and exits with `status`. Where several commands may meet it and
    write the remedy differently, `remedy` holds that part, in the keys of `diffgen train`.
    """

    status = 2  # 1 where no other command line would mend it, such as a full disk

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)  # both, for pickle
        self.what, self.remedy = what, remedy

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


def one_line(text: str) -> str:
    """A text with escapes for line breaks and other characters that no terminal or log shows."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def refuse(message: str) -> NoReturn:
    """Raise a UsageError; as the `error` of an argparse parser it gives one line for its page."""
    raise UsageError(message)


def did_you_mean(word: str, known: Collection[str], listed: bool = True) -> str:
    """What to add to an error about `word`: the one or two known words most like it.

    Dotted keys are compared as a whole, then by their last part. Where none is alike, all known
    words are named, or nothing without `listed`.
    """
    known = sorted(known)
    found = get_close_matches(word, known, 2, 0.75)
    if not found:
        last = get_close_matches(_last_part(word), {_last_part(w) for w in known}, 1, 0.7)
        found = [w for w in known if _last_part(w) in last][:2]
    if found:
        return f"; did you mean {' or '.join(found)}?"
    return f"; there is {', '.join(known)}" if listed else ""


def _last_part(key: str) -> str:
    return key.rpartition(".")[2]
