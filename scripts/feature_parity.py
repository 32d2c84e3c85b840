"""The same metrics by torch-fidelity and by diffgen, on networks of full size and random weights.

    python scripts/feature_parity.py [inception dinov2] [--images 200] [--out parity]

Two sets of smooth random images: of 32 pixels for Inception, which both programs enlarge as
TensorFlow 1 did, and of 224 for DINOv2 ViT-B/14, which torch-fidelity would enlarge in another way
than papers do. Random weights of the files' own format are written to OUT. DINOv2's network is
diffgen's on either side, since torch-fidelity runs its authors' code from a hub. Prints each
metric by both programs, and their relative difference.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch_fidelity
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from torch_fidelity import feature_extractor_inceptionv3 as theirs

from diffgen.evaluation import dinov2, inception
from diffgen.evaluation.features import Extractor
from diffgen.evaluation.frechet import FeatureStats
from diffgen.evaluation.metrics import evaluate
from diffgen.evaluation.reference import Reference
from diffgen.evaluation.scored import Scored
from diffgen.evaluation.stored import InMemory
from diffgen.files import sha256

NAMES = {  # torch-fidelity's, and ours
    "frechet_inception_distance": "fid",
    **{"kernel_inception_distance_mean": "kid", "inception_score_mean": "is"},
    **{"precision": "precision", "recall": "recall"},
}


class Images(Dataset[Tensor]):
    """uint8 (N, C, H, W), as both programs take them."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, number: int) -> Tensor:
        return self.pixels[number]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", default=["inception", "dinov2"])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("parity"))
    options = parser.parse_args()
    options.out.mkdir(exist_ok=True)
    print("| features | images | metric | torch-fidelity | diffgen | relative |")
    print("|---|---:|---|---:|---:|---:|")
    for name in options.networks:
        make, side = {"inception": (of_inception, 32), "dinov2": (of_dinov2, 224)}[name]
        extractor, network = make(options.out / f"{name}.pth")
        mine, real = smooth(options.images, side, 1), smooth(options.images, side, 2, shift=0.3)
        asked = {"fid": True, "kid": True, "prc": True, "isc": name == "inception"} | network
        asked |= {"kid_subset_size": options.images, "cuda": False, "cache": False}
        found = torch_fidelity.calculate_metrics(
            input1=Images(mine), input2=Images(real), save_cpu_ram=True, verbose=False, **asked
        )
        ours = by_diffgen(extractor, mine, real)
        for a, b, metric in (
            (found[key], ours[to], to) for key, to in NAMES.items() if key in found
        ):
            cells = (
                name,
                options.images,
                metric,
                f"{a:.8g}",
                f"{b:.8g}",
                f"{abs(a - b) / abs(a):.1e}",
            )
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


def smooth(count: int, side: int, seed: int, shift: float = 0.0) -> Tensor:
    """Random images (N, 3, side, side) of a few colours that run into one another."""
    coarse = torch.randn(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) + shift
    fine = F.interpolate(coarse, (side, side), mode="bicubic")
    return (127.5 + 64 * fine).round().clamp(0, 255).to(torch.uint8)


def by_diffgen(extractor: Extractor, mine: Tensor, real: Tensor) -> dict[str, float]:
    known = extractor(real).features
    identity = {"dataset": "made", "split": "train", "count": str(len(known))}
    stats = FeatureStats.of(known)
    reference = Reference(InMemory(known), None, stats, identity)
    scored = Scored.of(mine, [extractor(mine)], None)
    return evaluate(["fid", "kid", "is", "precision", "recall"], scored, reference)


def of_inception(path: Path) -> tuple[Extractor, dict[str, str]]:
    """Both programs' extractor of a file of random weights."""
    cls: Any = theirs.FeatureExtractorInceptionV3
    known, theirs.load_state_dict_from_url = theirs.load_state_dict_from_url, lambda *_, **__: {}
    load, cls.load_state_dict = cls.load_state_dict, lambda *_: None
    network = cls("inception-v3-compat", ["2048"])
    theirs.load_state_dict_from_url, cls.load_state_dict = known, load
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        if weight.ndim == 4:  # so that the signal reaches the end
            nn.init.kaiming_normal_(weight, generator=generator)
    network.fc.weight.data *= 1000  # so that classes differ
    torch.save(network.state_dict(), path)
    inception.SHA256 = sha256([path.read_bytes()])  # of a file that is not the published one
    extractor = inception.InceptionExtractor(weights=str(path))
    return extractor, {
        "feature_extractor": "inception-v3-compat",
        "feature_extractor_weights_path": str(path),
    }


def of_dinov2(path: Path) -> tuple[Extractor, dict[str, str]]:
    dim, depth, heads = dinov2.SIZES["b"]
    network, generator = dinov2.Vit(dim, depth, heads), torch.Generator().manual_seed(0)
    for weight in network.parameters():
        if weight.ndim > 1:
            weight.data = torch.randn(weight.shape, generator=generator) * dim**-0.5
        else:  # norms and scales of layers, so that images differ at the end
            weight.data = torch.ones(weight.shape)
    torch.save(network.state_dict(), path)
    torch.hub.load = lambda *_, **__: network
    return dinov2.Dinov2Extractor(weights=str(path)), {"feature_extractor": "dinov2-vit-b-14"}


if __name__ == "__main__":
    main()
