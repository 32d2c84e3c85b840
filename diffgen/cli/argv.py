"""A command line as a person types it, brought into the form that Hydra's parser takes."""

import os
import re
from argparse import Namespace

from hydra._internal.utils import get_args_parser

from diffgen.errors import refuse

PLAIN = re.compile(r"[A-Za-z0-9_./:+@%-]*")
ODD = re.compile(r"[^A-Za-z0-9_ ./\\:+@%$*?|-]")  # what Hydra's lexer does not take unquoted
LIST = re.compile(r"\[([^\[\]{}'\"()]*)\]")  # a flat one without quotes
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
# Quoted, a list, a mapping, a call, interpolated.
GRAMMAR = re.compile(r"""['"\[]|\{(.*:|\s*\})|\w+\(.*\)$|.*\$\{""")
PATHS = re.compile(r"(runs|cache|checkpoint|resume|(dataset\.|dataset\.test_)?root)$")
TEXTS = re.compile(rf"({PATHS.pattern}|logger\.\w+$)")
NUMBER = re.compile(r"[+-]?[\d._]+(e[+-]?\d+)?|true|false|inf|nan", re.IGNORECASE)


def parse(words: list[str]) -> tuple[Namespace, list[str]]:
    """Hydra's own reading of the words, and the words with the overrides last and paths quoted.

    argparse takes one run of positionals only; here flags may stand anywhere among them. The words
    after --help that set nothing, as in `--help sampler`, become args.topics.
    """
    parser = get_args_parser()
    parser.error = refuse  # one line in place of argparse's page
    args, unknown = parser.parse_known_intermixed_args(words)
    args.flags = unknown
    args.loose = [o for o in args.overrides if sets_nothing(o)]
    if unknown or (args.loose and not args.help):  # hydra_app knows what the command takes
        return args, words
    if args.config_dir and not os.path.isdir(args.config_dir):
        refuse(f"no folder {args.config_dir} for --config-dir")
    args.topics = args.loose
    flags = list(words)
    for override in args.overrides:
        flags.remove(override)
    given = [override for override in args.overrides if override not in args.topics]
    args.overrides = [quoted(check(override), args.multirun) for override in given]
    return args, [*flags, *args.overrides]


def sets_nothing(override: str) -> bool:
    return "=" not in override and not override.startswith("~")


def check(override: str) -> str:
    """The override, if it sets something under a word of today."""
    key = re.split("[=@]", override)[0].lstrip("+~")
    if not key or not re.search(r"\w", key):
        refuse(f"{override!r} names no key; write KEY=VALUE")
    if key in RETIRED:
        refuse(f"{key}= is now called {RETIRED[key]}=")
    if key == "model.name":  # a paper's other settings would stay those of another one
        refuse(
            f"{override} would change the name alone; write model{override.partition('name')[2]}"
        )
    if PATHS.match(key) and override.endswith("="):
        refuse(f"{override} names nothing; leave it out, or write {override}. for this folder")
    return override


def quoted(override: str, multirun: bool) -> str:
    """The override with quotes where Hydra's grammar would take its value for something else.

    So for `=`, letters that are not ASCII, brackets in a name, the path of an existing file with
    spaces or commas. A leading ~ is the home folder, as a shell would have it.
    """
    key, equals, value = override.partition("=")
    if TEXTS.match(key.lstrip("+")) and not multirun and NUMBER.fullmatch(value):
        return f"{key}='{value}'"  # a folder called 2026
    if not equals or PLAIN.fullmatch(value):
        return override
    if value.startswith(("[", "{")) and os.path.exists(value):
        return f"{key}={quote(value)}"
    if flat := LIST.fullmatch(value):
        return f"{key}=[{','.join(map(quote, flat[1].split(',')))}]"
    if GRAMMAR.match(value):
        return override
    parts = (
        value.split(",") if multirun and not os.path.exists(os.path.expanduser(value)) else [value]
    )
    return f"{key}={','.join(map(quote, parts))}"


def quote(value: str) -> str:
    value = os.path.expanduser(value)
    odd = ODD.search(value) or value != value.strip() or os.path.exists(value)
    if PLAIN.fullmatch(value) or not odd:
        return value
    return literal(value)


def literal(value: str) -> str:
    """A text in quotes, as Hydra reads them: backslashes count only before a quote."""
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value)
    return f"'{escaped}'"
