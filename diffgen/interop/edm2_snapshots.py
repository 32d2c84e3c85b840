"""The snapshots of one training of EDM2: averages of several relative widths at several times.

EDM2's program writes a file for each, NAME-0134217-0.050.pkl: the thousands of images that were
seen, and the width (Karras et al. 2024, section 3). Averages of other widths are made of them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from diffgen.errors import UsageError
from diffgen.interop.convert import Imported, convert
from diffgen.interop.files import State
from diffgen.runs.posthoc import width_of

FILE = re.compile(r"(.*)-(\d{1,12})-(\d+\.\d+)\.pkl")


@dataclass(frozen=True)
class Snapshots:
    """Files by thousands of images and by width; each time has all the widths of the last one."""

    files: Mapping[int, Mapping[float, Path]]
    left_out: int

    @property
    def steps(self) -> list[int]:
        return sorted(self.files)

    def at(self, step: int) -> Imported:
        """The averages at a time; UsageError where they are of several networks."""
        states: dict[str, State] = {}
        found: Imported | None = None
        for width, path in self.files[step].items():
            one = convert("edm2", path)
            if found and (one.recipe, one.classes) != (found.recipe, found.classes):
                raise UsageError(f"{path} is of another network than the snapshots beside it")
            found, states[f"width_{width:g}"] = one, one.raw
        assert found
        kept = {f"width_{width:g}": {"width": width} for width in self.files[step]}
        recipe = {**found.recipe, "ema": kept}
        assumed = (self._summary(), *found.assumed[1:])
        changed = {"recipe": recipe, "raw": {}, "averages": states, "step": step}
        return replace(found, **changed, assumed=assumed)

    def _summary(self) -> str:
        widths = " and ".join(f"{width:g}" for width in self.files[self.steps[-1]])
        count, without = len(self.files), f"; {self.left_out} without all widths are left out"
        return (
            f"averages of width {widths} at {count} times in thousands of images, its steps "
            f"(ema=0.15 takes another width){without if self.left_out else ''}"
        )


def snapshots(folder: Path) -> Snapshots:
    """The snapshots in a folder; UsageError without any, and for those of several trainings."""
    found: dict[int, dict[float, Path]] = {}
    names: set[str] = set()
    for path in sorted(folder.iterdir()):
        if (parts := FILE.fullmatch(path.name)) and path.is_file() and int(parts[2]):
            width = width_of(parts[3])
            assert width
            found.setdefault(int(parts[2]), {})[width] = path
            names.add(parts[1])
    if not found:
        raise UsageError(f"no snapshots in {folder}, such as network-snapshot-0134217-0.050.pkl")
    if len(names) > 1:
        raise UsageError(
            f"{folder} holds snapshots of {' and '.join(sorted(names))}: give a folder to each"
        )
    widths = found[max(found)].keys()
    whole = {at: files for at, files in found.items() if widths <= files.keys()}
    kept = {at: {width: files[width] for width in widths} for at, files in whole.items()}
    return Snapshots(kept, len(found) - len(kept))
