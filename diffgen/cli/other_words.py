"""The words of other programs for what is set here: diffusers, EDM, k-diffusion, Lightning, ..."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import yaml

FILE = Path(__file__).with_suffix(".yaml")
HALF = {"fp16": "16-mixed", "float16": "16-mixed", "16": "16-mixed", "half": "16-mixed"}
HALF |= {"bf16": "bf16-mixed", "bfloat16": "bf16-mixed", "amp": "16-mixed"}


@cache
def table(name: str) -> dict[str, str]:
    """A table of the file: what to write, and the words for it."""
    return {str(k): str(v) for k, v in yaml.safe_load(FILE.read_text())[name].items()}


def remedies(
    key: str, value: str, choices: Callable[[str], list[str]]
) -> Iterator[tuple[list[str], str]]:
    """What somebody may mean who sets `key`, or its last part: the words to type, and a note.

    choices: the names of a group's choices.
    """
    key = key.lower()
    for word in dict.fromkeys((key, key.rpartition(".")[2])):
        for template, known in table("keys").items():
            if word in known.split():
                yield filled(template, word, value, choices), table("notes").get(template, "")


def filled(template: str, word: str, value: str, choices: Callable[[str], list[str]]) -> list[str]:
    """A row's words for a value."""
    group = template.partition("=")[0]
    forms: dict[str, Callable[[], str]] = {
        "value": lambda: value,
        "weight": lambda: ",".join(map(_weight, value.split(","))),
        "count": lambda: str(value.count(",") + 1) if value.startswith("[") else value,
        "list": lambda: f"[{value.strip('[]() ')}]",
        "bool": lambda: "false" if _is_off(value) else "true",
        "name": lambda: choice_for(group, value, choices(group)) or value,
        "resume": lambda: "auto" if value in ("latest", "true", "True", "last") else value,
        "ema": lambda: "none" if _is_off(value) else "ddpm",
        "variance": lambda: "fixed" if _is_off(value) else "learned",
        "metric": lambda: value if word == "metric" else word.rpartition("_")[2],
        "accelerator": lambda: _accelerator(word, value),
        "precision": lambda: _precision(word, value),
        "logger": lambda: _logger(word, value),
    }
    named = re.search(r"{(\w+)}", template)
    given = {named[1]: forms[named[1]]()} if named else {}
    return [each.format(**given) for each in template.split(" ")]


def choice_for(group: str, value: str, options: list[str]) -> str | None:
    """The choice that a value means, whatever its case and signs; None where it is unclear."""
    wanted = re.sub("scheduler$", "", squeezed(value)) or squeezed(value)
    found = [name for name in options if squeezed(name) == wanted]
    for remedy, words in table("choices").items():
        if remedy.startswith(f"{group}=") and wanted in words.split():
            found.append(remedy.partition("=")[2])
    return found[0] if found else None


def for_number(group: str, value: str) -> list[str]:
    """What to write in the place of a number, or numbers of a sweep, that a group is given."""
    if not all(map(is_number, value.split(","))):
        return []
    return table("numbers").get(group, "").format(value=value).split()


def squeezed(word: str) -> str:
    """A word without case and signs: CIFAR-10 is cifar10, DPM++ is dpmpp."""
    return re.sub(r"[\W_]", "", word.lower().replace("+", "p"))


def _weight(scale: str) -> str:
    return f"{float(scale) - 1:g}" if is_number(scale) else "1"


def is_number(value: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", value.lower()) is not None


def _is_off(value: str) -> bool:
    return value.lower() in ("false", "no", "none", "null", "0", "off", "")


def _accelerator(word: str, value: str) -> str:
    if word in ("device", "accelerator"):
        return "gpu" if value.startswith("cuda") else value.partition(":")[0]
    return "cpu" if _is_off(value) != (word in ("cpu", "no_cuda")) else "gpu"


def _precision(word: str, value: str) -> str:
    if value.lower() in ("true", "1", "yes"):
        value = word.removeprefix("use_")
    return HALF.get(value.lower(), "32-true")


def _logger(word: str, value: str) -> str:
    if word in ("report_to", "log_with"):
        return "csv" if _is_off(value) else value
    return "csv" if _is_off(value) else word.rpartition("_")[2]
