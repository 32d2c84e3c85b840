"""Folders train/ and test/, as many published sets are laid out."""

import logging
from collections import defaultdict
from dataclasses import dataclass

from diffgen.dataset.labels import above
from diffgen.dataset.store import Store

# What the folders are called; where there is no test/, validation images are tested on.
CALLED = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """The files to train on, and those to test on in the folder `within`; [] where none is."""

    train: list[str]
    test: list[str]
    within: str


def split_folders(store: Store) -> Splits:
    """The images of train/ and of test/ or val/, where the first folders are called so; else all.

    Images beside these folders are left out, and those of val/ where there is a test/, too.
    """
    names = store.images()
    start = above(names)[-1]
    parts: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        folder, slash, _ = name.removeprefix(start).partition("/")
        parts[folder if slash else ""].append(name)
    beside = len(parts.pop("", []))
    found = {CALLED.get(folder.casefold(), folder): folder for folder in parts}
    if "train" not in found or len(found) < 2 or set(found) - set(CALLED.values()):
        return Splits(names, [], "")
    test = found.get("test") or found["validation"]
    others = [f"{len(parts[f])} in {f}/" for f in parts if f not in (found["train"], test)]
    unused = ", ".join(others + [f"{beside} beside them"] * bool(beside)) or "none"
    text = "%s holds splits: %s/ to train on, %s/ to test on; images of neither: %s"
    log.info(text, store.path, found["train"], test, unused)
    return Splits(parts[found["train"]], parts[test], f"{start}{test}/")
