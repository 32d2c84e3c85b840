"""The folder of an exported checkpoint: made, checked, written, and told of."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffgen import __version__
from diffgen.commands.model_card import Subject, card
from diffgen.errors import UsageError
from diffgen.files import WriteError, partial_of, write_atomically
from diffgen.interop.diffusers_export import diffusers_files
from diffgen.interop.program import program
from diffgen.runs import safetensors_file
from diffgen.runs.checkpoint import Checkpoint, opened
from diffgen.runs.checkpoint_format import header, seal
from diffgen.runs.locate import EXPORTED, locate
from diffgen.runs.posthoc import width_of

PROGRAM = "model.pt2"
# Parts of a recipe that say where this machine keeps things, or how it computes.
OWN = ("runs", "cache", "logger", "resume", "init", "preview", "evaluate", "compile")


def export(options: Namespace) -> None:
    """Write what the options of `diffgen export` name; print what it holds, and its folder."""
    found = opened(locate(options.checkpoint, options.runs), options.trust)
    denoiser = found.denoiser(options.ema)
    out = options.out or found.run / "exported" / f"{options.form}_{found.step:07d}"
    if out.exists():
        raise UsageError(f"{out} is there already: give another OUT, or remove it")
    width, name = width_of(options.ema), found.average(options.ema)
    ema = f"width_{name}" if width else name
    subject = Subject(found, denoiser, ema, _recipe(found, ema, width))
    files = {**FORMS[options.form](subject), "README.md": card(options.form, subject).encode()}
    _write(out, files)
    size = sum(map(len, files.values())) / 1e6
    print(f"step {found.step:,}, ema={ema}, {size:.1f} MB: {', '.join(sorted(files))}")
    print(out)


def _recipe(found: Checkpoint, ema: str, width: float | None) -> dict[str, Any]:
    """The recipe that goes with one state of the weights, without paths of this machine."""
    recipe = {key: part for key, part in found.recipe.items() if key not in OWN}
    averages = {ema: {"width": width}} if width else recipe.get("ema", {})
    dataset = {k: v for k, v in recipe.get("dataset", {}).items() if not _is_path(v)}
    kept = {name: each for name, each in averages.items() if name == ema}
    return {**recipe, "ema": kept, "dataset": dataset}


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and (Path(value).is_absolute() or value.startswith(("~", "..")))


def _diffusers(subject: Subject) -> dict[str, bytes]:
    found, sampler = subject.found, subject.recipe.get("sampler") or {}
    large = sampler.get("variance") == "fixedlarge"
    recipe, classes = found.denoiser_recipe(), len(found.classes)
    try:
        return diffusers_files(subject.denoiser, recipe, found.shape, classes, large)
    except UsageError as error:
        raise UsageError(f"no export of {found.path}: {error.what}", error.remedy) from None


def _safetensors(subject: Subject) -> dict[str, bytes]:
    found = subject.found
    said = header(__version__, subject.recipe, found.range, found.shape, found.classes)
    state = subject.denoiser.network.state_dict()
    sealed = safetensors_file.content(said, found.step, subject.ema, state)
    seal(sealed)
    return {EXPORTED: safetensors_file.written(sealed)}


def _torch(subject: Subject) -> dict[str, bytes]:
    found = subject.found
    return {PROGRAM: program(subject.denoiser, found.shape, len(found.classes))}


FORMS: dict[str, Callable[[Subject], dict[str, bytes]]] = {
    "diffusers": _diffusers,
    "safetensors": _safetensors,
    "torch": _torch,
}


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    """A new folder of these files, whole or not at all."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with partial_of(out, Path.mkdir) as partial:
            for name, content in files.items():
                write_atomically(partial / name, lambda file, data=content: file.write(data))
            partial.rename(out)
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise WriteError(out, cause) from error
