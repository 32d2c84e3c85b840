"""A command line as a person types it, brought into the form that Hydra's parser takes."""

import re
from argparse import Namespace
from pathlib import Path

from hydra._internal.utils import get_args_parser

from diffgen.errors import refuse

PLAIN = re.compile(r"[\w./~:+@%-]*")
RETIRED = {  # keys and groups of earlier versions, and what they are called now
    "averages": "ema",
    "model.told": "model.noise_input",
    "model.prediction": "prediction",
    "model.sigma_data": "prediction.sigma_data",
    "model.times": "times",
    "model.log_sigma_mean": "times.mean",
    "model.log_sigma_std": "times.std",
    "model.weighting": "weighting",
    "model.gamma": "weighting.gamma",
}
GRAMMAR = re.compile(r"""['"\[{]|\w+\(.*\)$|.*\$\{""")  # quoted, a list, a call, interpolated


def parse(words: list[str]) -> tuple[Namespace, list[str]]:
    """Hydra's own reading of the words, and the words with the overrides last and paths quoted.

    argparse takes one run of positionals only; here flags may stand anywhere among them. The words
    after --help that set nothing, as in `--help sampler`, become args.topics.
    """
    parser = get_args_parser()
    parser.error = refuse  # one line in place of argparse's page
    args, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        refuse(f"no flag {unknown[0]!r}; keys are set without dashes, as key=value")
    args.topics = [o for o in args.overrides if args.help and sets_nothing(o)]
    flags = list(words)
    for override in args.overrides:
        flags.remove(override)
    args.overrides = [override for override in args.overrides if override not in args.topics]
    return args, [*flags, *(quoted(check(o), args.multirun) for o in args.overrides)]


def sets_nothing(override: str) -> bool:
    return "=" not in override and not override.startswith("~")


def check(override: str) -> str:
    """The override, if it sets something under a word of today."""
    key = re.split("[=@]", override)[0].lstrip("+~")
    if key in RETIRED:
        refuse(f"{key}= is now called {RETIRED[key]}=")
    if sets_nothing(override):
        refuse(f"{override!r} sets nothing; write {override}=VALUE")
    return override


def quoted(override: str, multirun: bool) -> str:
    """The override with quotes around a value that Hydra's grammar would take for something else:
    one with an '=' in it, or the path of an existing file with unusual letters."""
    key, equals, value = override.partition("=")
    if not equals or PLAIN.fullmatch(value) or GRAMMAR.match(value):
        return override
    parts = value.split(",") if multirun and not Path(value).exists() else [value]
    return f"{key}={','.join(map(quote, parts))}"


def quote(value: str) -> str:
    if "=" not in value and not Path(value).expanduser().exists():
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
