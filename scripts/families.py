"""Which family of models is better at few evaluations, with the same network, images and seeds.

python scripts/families.py DATASET [ROOT] [--steps 2000] [--images 2000] [--out families]
Trains DDPM, EDM, flow matching (independent and optimal-transport pairs) and a transformer that
predicts the image, each in OUT/FAMILY; draws every sampler and number of
steps; prints the distances by number of evaluations. Started again, it goes on.
"""

import argparse
import csv
import subprocess
from pathlib import Path

FAMILIES = {
    "ddpm": ["model=ddpm"],
    "edm": ["model=edm"],
    "flow": ["model=flow"],
    "flow + OT": ["model=flow", "model.coupling=ot"],
    "jit": ["model=jit"],  # a transformer that predicts the image
}
# Steps, each one evaluation of the network.
SAMPLERS = {"ddim": (2, 5, 10, 20, 50, 100), "dpmpp_2m": (2, 5, 10, 20)}
TRAINING = ["preview.every=0", "logger=none", "trainer.save_every=100", "trainer.ema_snapshots=0"]
SCORING = ["metrics=[fid]", "batch_size=100", "precision=bf16-mixed", "compile=true"]


def folder(out: Path, family: str) -> Path:
    return out / "_".join(word for word in family.replace(",", "").split() if word != "+")


def diffgen(*words: str) -> None:
    print("$ diffgen", *words, flush=True)
    subprocess.run(["diffgen", *words], check=True)


def train(run: Path, words: list[str], data: list[str], steps: int) -> None:
    start = [*data, *words, *TRAINING, f"trainer.max_steps={steps}", f"hydra.run.dir={run}"]
    diffgen("train", *([f"resume={run}"] if any(run.rglob("last.ckpt")) else start))


def score(run: Path, images: int) -> list[dict[str, str]]:
    """The rows of all sweeps over one run."""
    rows = []
    for sampler, steps in SAMPLERS.items():
        sweep = run / f"sweep_{sampler}"
        if not (sweep / "table.csv").exists():
            axis = f"steps={','.join(map(str, steps))}"
            words = [f"checkpoint={run}", f"num_samples={images}", *SCORING]
            diffgen("sample", "-m", *words, f"sampler={sampler}", axis, f"hydra.sweep.dir={sweep}")
        with (sweep / "table.csv").open() as file:
            rows += list(csv.DictReader(file))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("root", nargs="?")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("families"))
    words = parser.parse_args()
    data = [f"dataset={words.dataset}"]
    data += [f"dataset.root={words.root}"] if words.root else []
    for family, settings in FAMILIES.items():
        train(folder(words.out, family), settings, data, words.steps)
    rows = {family: score(folder(words.out, family), words.images) for family in FAMILIES}
    real = next(row["fid"] for row in rows["ddpm"] if row["sampler"].startswith("real"))
    print(
        f"\nFD of {words.images} images, {words.steps} steps of training; real: {float(real):.3g}"
    )
    for sampler, steps in SAMPLERS.items():
        print(f"\n| {sampler} | {' | '.join(map(str, steps))} |")
        print("| :--- |" + " ---: |" * len(steps))
        for family, its in rows.items():
            found = {row["steps"]: float(row["fid"]) for row in its if row["sampler"] == sampler}
            print(f"| {family} | {' | '.join(f'{found[str(n)]:.3g}' for n in steps)} |")


if __name__ == "__main__":
    main()
