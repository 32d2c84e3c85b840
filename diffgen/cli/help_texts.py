"""What configs say of themselves: a line for each key and for each choice of a group."""

import ast
import re
from functools import cache
from pathlib import Path

from diffgen.cli.config_files import find, read

KEY = re.compile(r"(?P<indent>\s*)(?P<key>\w+):(?:.*?\s# (?P<text>.+)|.*)")
SENTENCE = re.compile(r".+?[.:](?=\s|$)(?! \d| [a-z(])", re.DOTALL)
PACKAGE = Path(__file__).parents[1]


@cache
def comments(path: Path) -> dict[str, str]:
    """The comment beside each key of a config file, by the key with dots."""
    found, above = {}, list[tuple[int, str]]()
    for match in filter(None, map(KEY.fullmatch, path.read_text().splitlines())):
        indent = len(match["indent"])
        above = [*((i, key) for i, key in above if i < indent), (indent, match["key"])]
        if match["text"]:
            found[".".join(key for _, key in above)] = match["text"].strip()
    return found


class Explanations:
    """The lines of help that the files below `folders` hold."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self.folders = folders

    def choices(self, group: str) -> list[str]:
        """The names of a group's files."""
        files = (path for folder in self.folders for path in (folder / group).glob("*.yaml"))
        return sorted({path.stem for path in files})

    def is_preset(self, group: str, choice: str) -> bool:
        """Whether a choice is another one with other values, as unet_mnist is of unet."""
        bases = self._bases(f"{group}/{choice}")
        return any(choice.startswith(f"{base}_") for base in bases)

    def choice(self, group: str, name: str) -> str:
        """What a choice is: the first line of its module, or of its file of settings."""
        module = PACKAGE / group / f"{name}.py"
        if module.is_file():
            return _sentence(ast.get_docstring(ast.parse(module.read_text())) or "")
        path = find(self.folders, f"{group}/{name}")
        lines = path.read_text().splitlines() if path else []
        head = []
        for line in lines:
            if not line.startswith("#"):
                break
            if not line.startswith("# @package"):
                head.append(line.removeprefix("# "))
        return _sentence(" ".join(head))

    def key(self, file: str, key: str) -> str:
        """The comment of a key in a config, in those it includes, else in its group's others."""
        group = file.rpartition("/")[0]
        others = [f"{group}/{name}" for name in self.choices(group)] if group else []
        for name in [*self._line(file), *others]:
            path = find(self.folders, name)
            if path and key in comments(path):
                return comments(path)[key]
        return ""

    def _line(self, file: str) -> list[str]:
        """A config and those it includes, the nearest first."""
        group = file.rpartition("/")[0]
        within = f"{group}/" if group else ""
        bases = (self._line(f"{within}{base}") for base in self._bases(file))
        return [file, *(name for line in bases for name in line)]

    def _bases(self, file: str) -> list[str]:
        path = find(self.folders, file)
        entries = read(path).get("defaults", []) if path else []
        return [entry for entry in entries if isinstance(entry, str) and entry != "_self_"]


def _sentence(text: str) -> str:
    """The first sentence of a text as one line; "et al. 2020" does not end it."""
    text = " ".join(text.split("\n\n")[0].split())
    match = SENTENCE.match(text)
    return match[0].rstrip(":") if match else text
