"""`diffgen import`: a released checkpoint of another program in, one of diffgen out."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffgen import __version__
from diffgen.config.build import build
from diffgen.dataset.pixels import RANGES
from diffgen.errors import UsageError, refuse
from diffgen.files import write_atomically
from diffgen.interop.convert import KINDS, Imported, convert
from diffgen.runs.checkpoint import PREFIX, load
from diffgen.runs.checkpoint_format import header, seal

HELP = """\
what PATH is for each kind:
  ncsn, ncsnv2    checkpoint_*.pth of the authors' code; config.yml beside it is read if there
  ddim            ckpt.pth or converted weights of DDIM's code; likewise
  ddpm-diffusers  the folder of a UNet2DModel or of its pipeline, or the weights in it

`diffgen sample checkpoint=OUT` then draws from it. Files are read as data; nothing in them runs.
"""


def main(words: Sequence[str]) -> int:
    """Write the checkpoint and print the folder that holds it."""
    options = _parser().parse_args(words)
    found = convert(options.kind, options.path, options.size)
    dataset = _dataset(found, options.dataset, options.trust)
    recipe = {**found.recipe, "dataset": dataset}
    path = _target(options.out, found, dataset["name"], options.path)
    if path.exists():
        raise UsageError(f"{path} is there already: give another OUT, or remove it")
    checkpoint = sealed(found, recipe)
    write_atomically(path, lambda file: torch.save(checkpoint, file))
    try:
        load(path).denoiser()
    except BaseException:
        path.unlink()
        raise
    print(_summary(found, recipe))
    print(path.parent.parent if path.parent.name == "checkpoints" else path)
    return 0


def sealed(found: Imported, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of these weights, with nothing to train on from."""
    checkpoint: dict[str, Any] = {
        "state_dict": {PREFIX + key: value for key, value in _plain(found.raw).items()},
        "ema": {"average": _plain(found.ema)} if found.ema else {},
        "global_step": found.step,
        "diffgen": header(__version__, recipe, RANGES[recipe["model"]["range"]], found.shape, ()),
    }
    seal(checkpoint)
    return checkpoint


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().contiguous().clone() for key, value in state.items()}


def _dataset(found: Imported, name: str | None, trust: Sequence[str]) -> dict[str, Any]:
    """The data set's settings: as given, as the file tells, or a folder of such images."""
    channels, size, _ = found.shape
    if name is not None:
        stated = found.recipe.get("dataset", {})
        settings = stated if stated.get("name") == name else {"name": name}
        build("dataset", settings, trust)
        return settings
    folder = {"name": "folder", "size": size, "channels": channels, "labels": False}
    return found.recipe.get("dataset", folder)


def _target(out: Path | None, found: Imported, dataset: str, source: Path) -> Path:
    model = found.recipe["model"]["name"]
    run = out or Path("runs") / f"{dataset}_{model}" / f"imported_{source.stem}"
    return run if run.suffix == ".ckpt" else run / "checkpoints" / "last.ckpt"


def _summary(found: Imported, recipe: Mapping[str, Any]) -> str:
    count = sum(value.numel() for value in found.raw.values())
    average = "with its average" if found.ema else "without an average"
    shape = " x ".join(map(str, found.shape))
    line = (
        f"{recipe['network']['name']} of {count:,} parameters for {shape}, "
        f"{recipe['schedule']['levels']} levels, step {found.step:,}, {average}"
    )
    if "dataset" in found.recipe or recipe["dataset"]["name"] != "folder":
        return line
    return f"{line}; no file names its data set, so that metrics need root=FOLDER of such images"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffgen import",
        description=__doc__,
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("path", metavar="PATH", type=Path, help="what was released")
    parser.add_argument(
        "out", metavar="OUT", type=Path, nargs="?", help="a run's folder or *.ckpt"
    )
    parser.add_argument("--size", type=int, help="of the images, where no file tells it")
    parser.add_argument("--dataset", help="what it learned, where no file tells it")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="one of your own, of whose classes --dataset may name one",
    )
    parser.error = refuse  # one line in place of argparse's page
    return parser
