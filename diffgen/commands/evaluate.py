"""`diffgen evaluate`: images of any program against a data set, images or statistics."""

import json
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from diffgen import __version__
from diffgen.commands.arguments import Parser
from diffgen.config.parts import Named
from diffgen.dataset.images import Chosen, Images, check_alike
from diffgen.errors import UsageError, did_you_mean
from diffgen.evaluation import table
from diffgen.evaluation.features import Extractor, batches
from diffgen.evaluation.frechet import FeatureStats
from diffgen.evaluation.left_empty import HELD_OUT, notes
from diffgen.evaluation.metrics import metric_names
from diffgen.evaluation.reference import reference
from diffgen.evaluation.rows import Row, blocks
from diffgen.evaluation.scoring import floor, score
from diffgen.evaluation.table_formats import print_parts
from diffgen.files import expanded, write_atomically, write_text
from diffgen.sampling.evaluator import CLASSIFIER, features_name, pretrained
from diffgen.sampling.foreign import (
    against,
    dataset_named,
    extractor_for,
    fitting,
    images_at,
    reference_of,
)

log = logging.getLogger(__name__)

DEFAULTS: dict[str, Any] = {
    "features": "auto",
    "metrics": ["fid", "fid_test", "kid", "precision", "recall", "density", "coverage"],
    "n": None,
    "size": None,
    "root": None,
    "cache": None,
}
TEXT = """keys:
  features=NAME         auto, classifier, inception, dinov2, clip, torchvision, random
  features.KEY=VALUE    a setting of the features, as features.weights=PATH
  metrics=[NAME,...]    as in `diffgen sample`, or standard, all
  n=N                   images that are scored; all by default
  size=N                resizes the images of folders and keeps their middle square
  root=FOLDER           where the files of a data set of --against are
  cache=FOLDER          of what is downloaded or computed once"""


def main(words: Sequence[str]) -> int:
    """Score the images and print a table of them and of real ones."""
    options = _parser().parse_intermixed_args(words)
    settings, features = _read(options.keys)
    place = expanded(options.images)
    if not (place.is_dir() or place.is_file()):
        raise UsageError(f"no images at {options.images}: a folder, a zip or an .npz")
    metrics = metric_names(settings["metrics"])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if (name := features_name(features, dataset_named(options.against))) != CLASSIFIER:
        pretrained(name, tuple(sorted(features.settings.items())), device)  # before any image
    target = against(options.against, settings["root"], settings["size"])
    cache = Path(settings["cache"] or os.environ.get("DIFFGEN_CACHE", "~/.cache/diffgen"))
    extractor = extractor_for(features, target, cache, device)
    images = fitting(_named(options.images, settings["size"]), target.train)
    images = _first(images, settings["n"])
    if target.train is not None:
        remedy = "resize them with the program that made them, or folders by size="
        check_alike(images.name, images.pixels.shape[1:], target.train, remedy)
    real = reference_of(target, extractor, cache)
    held = 0 if target.test is None else len(target.test)
    n, dim = len(images), extractor.dim
    for line in notes(
        names=metrics, labels=images.labels, n=n, dim=dim, reference=real, held=held
    ):
        log.info(line)
    if target.test is not None and held > 1 and not HELD_OUT.isdisjoint(metrics):
        real = replace(real, held_out=reference(target.test, "test", extractor, cache))
    if options.save_stats:
        save_stats(options.save_stats, stats_of(extractor, images))
    folder = Path(options.out or Path("runs", "evaluations", _stamp()))
    scored = score(images.pixels, images.labels, extractor, real, metrics, folder)
    row = {
        **{"sampler": options.name or Path(options.images).name, "identity": ["sampler"]},
        **{"images": str(Path(options.images).absolute()), "fingerprint": images.fingerprint},
        **scored,
        **{"metrics": metrics, "versions": {"diffgen": __version__, "torch": torch.__version__}},
    }
    rows = [row]
    if target.test is not None and len(images) <= held:
        compared = replace(real, held_out=None)
        rows.append(floor(target.test, len(images), extractor, compared, metrics))
    publish(folder, rows)
    return 0


def publish(folder: Path, rows: Sequence[Row]) -> None:
    """Write the rows, each in a folder of its own, and their table; print it, the folder last."""
    for number, row in enumerate(rows):
        path = folder / str(number) / "result.json"
        write_text(path, json.dumps(row, indent=1, sort_keys=True))
    found = blocks(rows)
    table.write(folder, found)
    print_parts(table.parts(found, classes=False))
    print(folder)


def stats_of(extractor: Extractor, images: Images) -> FeatureStats:
    """The statistics of the features of all images, which are not kept."""
    return FeatureStats.over(part.features for part in batches(extractor, images.pixels))


def save_stats(path: Path, stats: FeatureStats) -> None:
    """Write mean and covariance of features as `mu`, `sigma`, which other programs read."""
    arrays: dict[str, Any] = {"mu": stats.mean.numpy(), "sigma": stats.covariance.numpy()}
    write_atomically(path, lambda file: np.savez(file, **arrays))


def _parser() -> Parser:
    parser = Parser("evaluate", __doc__, TEXT)
    parser.add_argument("images", metavar="IMAGES", help="a folder, a zip, or an .npz (arr_0)")
    parser.add_argument(
        "--against",
        metavar="DATA",
        required=True,
        help="a data set of diffgen (mnist), a folder, a zip, an .npz of images or mu and sigma",
    )
    parser.add_argument("keys", metavar="KEY=VALUE", nargs="*", help="see below")
    parser.add_argument("--name", help="of the row; the file's by default")
    parser.add_argument(
        "--out", type=Path, help="folder for rows and table; by default under runs/"
    )
    parser.add_argument("--save-stats", type=Path, help="file for mu and sigma of the images")
    return parser


def _read(words: Sequence[str]) -> tuple[dict[str, Any], Named]:
    """The settings by key, and those of features."""
    settings, of_features = dict(DEFAULTS), {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or (key not in DEFAULTS and not key.startswith("features.")):
            known = [*DEFAULTS, "features.weights"]
            raise UsageError(f"no key {key!r} of diffgen evaluate{did_you_mean(key, known)}")
        read = value if key in ("root", "cache", "features.weights") else _value(word, value)
        if key.startswith("features."):
            of_features[key.removeprefix("features.")] = read
        else:
            settings[key] = read
    for key in ("n", "size"):
        if isinstance(settings[key], str | float):  # YAML reads 1e4 as text
            with suppress(ValueError):
                number = float(settings[key])
                settings[key] = int(number) if number.is_integer() else number
        if settings[key] is not None and (type(settings[key]) is not int or settings[key] < 1):
            raise UsageError(f"{key}={settings[key]} is no number from 1")
    return settings, Named(str(settings["features"]), of_features)


def _value(word: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"{word} cannot be read") from None


def _named(path: str, size: int | None) -> Images:
    """The images to measure; root= is about those that they are compared with."""
    try:
        return images_at(path, size)
    except UsageError as error:
        remedy = "" if "root=" in error.remedy else error.remedy
        raise UsageError(error.what, remedy) from error


def _first(images: Images, n: int | None) -> Images:
    if n is None or n == len(images):
        return images
    if n > len(images):
        raise UsageError(f"n={n}: {images.name} has {len(images)} images")
    rows = torch.arange(n)
    labels = None if images.labels is None else images.labels[:n]
    return replace(images, pixels=Chosen(images.pixels, rows), labels=labels)


def _stamp() -> str:
    return time.strftime("%Y-%m-%d_%H-%M-%S")
