"""Whether figures depend on containers, threads, batches and processes.

    python scripts/same_figures.py DATA [--metrics all] [--out same_figures]

DATA holds MNIST as torchvision lays it out. First the 10,000 test images with a little noise, as
an .npz, a zip and a folder of PNG files, are evaluated on one thread and on two; then a model of
digits, trained for 200 steps, draws 10,000 images in batches of 1, 64 and 1000, in one process and
in two. Prints of each metric the largest relative difference from the first way.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import MNIST

from diffgen.evaluation.rows import NUMBERS

CONTAINERS = (("images.npz", 1), ("images.npz", 2), ("images.zip", 1), ("images", 1))  # threads
DRAWN = [(size, devices) for devices in (1, 2) for size in (64, 1000, 1)]
COUNT = 10_000
MEASURED = {column for column in NUMBERS if column not in ("seconds", "images_per_second")}
TRAINING = (
    *("dataset=digits", "trainer.max_steps=200", "preview.every=0", "logger=none"),
    *("network.width=16", "network.multipliers=[1,2]", "network.blocks=1", "network.attention=[]"),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--metrics", default="all")
    parser.add_argument("--out", type=Path, default=Path("same_figures"))
    words = parser.parse_args()
    out = words.out.absolute()
    read(words.data, words.metrics, out)
    drawn(words.metrics, out)


def read(data: str, metrics: str, out: Path) -> None:
    """Evaluate the same images from each container."""
    write(MNIST(data, train=False), out)
    rows = []
    keys = ("--against", "mnist", f"root={data}", "features=classifier", f"metrics={metrics}")
    for name, threads in CONTAINERS:
        place = out / f"scores_{name}_{threads}"
        diffgen("evaluate", out / name, *keys, "--out", place, threads=threads)
        rows.append(figures(place / "0"))
    tell(f"{COUNT} images of MNIST, {len(rows)} ways to read them", rows)


def drawn(metrics: str, out: Path) -> None:
    """Draw the same images in batches of each size, in one process and in two."""
    run, rows, images = out / "run", [], []
    if not any(run.rglob("last.ckpt")):
        diffgen("train", *TRAINING, f"hydra.run.dir={run}")
    for size, devices in DRAWN:
        place = out / f"drawn_{size}_{devices}"
        shutil.copytree(run, place, dirs_exist_ok=True)  # cells stand beside their checkpoint
        settings = (f"num_samples={COUNT}", f"n={COUNT}", "steps=1", "deterministic=true")
        ways = (f"batch_size={size}", f"devices={devices}", "accelerator=cpu")
        words = (f"metrics={metrics}", f"hydra.run.dir={place}/job")
        diffgen("sample", f"checkpoint={place}", *settings, *ways, *words)
        (cell,) = (place / "cells").glob("*")
        rows.append(figures(cell))
        images.append(np.load(cell / "samples.npz")["arr_0"])
    apart = max(int((each != images[0]).sum()) for each in images)
    tell(f"{COUNT} digits drawn in {len(rows)} ways; {apart} bytes differ", rows)


def write(data: MNIST, out: Path) -> None:
    """The images as an .npz, a zip and a folder of PNG files with their labels, in one order."""
    labels = data.targets[:COUNT].numpy()
    noise = np.random.default_rng(0).integers(-16, 17, (COUNT, 28, 28))
    pixels = (data.data[:COUNT].numpy() + noise).clip(0, 255).astype(np.uint8)
    (out / "images").mkdir(parents=True, exist_ok=True)
    np.savez(out / "images.npz", arr_0=pixels[..., None], arr_1=labels)
    names = [f"{number:06}.png" for number in range(len(pixels))]
    listing = json.dumps({"labels": list(zip(names, labels.tolist(), strict=True))})
    with zipfile.ZipFile(out / "images.zip", "w") as archive:
        for name, image in zip(names, pixels, strict=True):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "png")
            (out / "images" / name).write_bytes(file.getvalue())
            archive.writestr(name, file.getvalue())
        archive.writestr("dataset.json", listing)
    (out / "images" / "dataset.json").write_text(listing)


def diffgen(*words: object, threads: int = 1) -> None:
    told = [str(word) for word in words]
    print("$ diffgen", *told, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(["diffgen", *told], check=True, env=environment, stdout=subprocess.DEVNULL)


def figures(folder: Path) -> dict[str, float]:
    """The figures of a row, those of each class by its name; no times."""
    row = json.loads((folder / "result.json").read_text())
    found = {f"fid_per_class, {k}": v for k, v in (row.pop("fid_per_class", None) or {}).items()}
    return found | {k: v for k, v in row.items() if k in MEASURED and v is not None}


def tell(what: str, rows: list[dict[str, float]]) -> None:
    print(f"\n{what}\n\n| figure | value | largest relative difference |\n|:---|---:|---:|")
    for name, value in rows[0].items():
        apart = max(abs(row[name] - value) for row in rows) / (abs(value) or 1)
        print(f"| {name} | {value:.6g} | {apart:.1e} |", flush=True)


if __name__ == "__main__":
    main()
