"""What the papers' own code computes, in small files that it can be asked for again.

    python tests/originals.py NAME CLONE

runs the network of case NAME in a clone of its repository, at the commit below, and writes
tests/data/originals/NAME.safetensors: its answer, and the names and shapes of its parameters.
Weights and inputs are waves (`waved`, `inputs`), so that no file needs to hold them. The clones
need their own requirements; diffgen needs neither, and holds none of their code.
"""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from waves import waves

FOLDER = Path(__file__).parent / "data/originals"
OWN = ("resample_filter", "pos_embed")  # what the original computes, and no file overwrites
SIZE, CLASSES, AUGMENT = 8, 3, 9

Shapes = dict[str, list[int]]


@dataclass(frozen=True)
class Case:
    """A network of another repository: where it is, how it is made and how it is called.

    `noise` are the noise inputs of two images; `one_hot`: labels are rows of classes.
    """

    source: str
    module: str
    make: str
    settings: dict[str, Any]
    noise: tuple[float, float]
    call: Callable[..., Tensor] = lambda network, x, c_noise, label, augment: network(
        x, c_noise, label
    )
    channels: int = 3
    size: int = SIZE
    extra: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {
    "dit": Case(
        "facebookresearch/DiT@ed81ce2229091fd4ecc9a223645f95cf379d582b",
        "models",
        "DiT",
        {
            "input_size": SIZE,
            "patch_size": 2,
            "in_channels": 3,
            "hidden_size": 24,
            "depth": 2,
            "num_heads": 3,
            "num_classes": CLASSES,
        },
        (3.0, 998.0),
    ),
}


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (2, C, H, W), c_noise (2,), label (2,), augment (2, 9) of a case."""
    shape = 2, case.channels, case.size, case.size
    x = waves(2 * case.channels * case.size**2, 0.5).view(shape).float()
    return x, torch.tensor(case.noise), torch.tensor([0, 2]), waves(18, 1.0).view(2, 9).float()


def waved(shapes: Shapes) -> dict[str, Tensor]:
    """Waves for weights, in the order of their names: kernels keep the variance, others a half."""
    state = {}
    for phase, name in enumerate(sorted(shapes)):
        shape = torch.Size(shapes[name])
        kernel = len(shape) in (2, 3, 4)
        scale = 1.5 * (shape.numel() / shape[0]) ** -0.5 if kernel else 0.5
        state[name] = (scale * waves(shape.numel(), phase)).view(shape).float()
    return state


def expected(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a case under the names of the original, and what it answers."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
        return waved(shapes), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def write(name: str, clone: str) -> None:
    """Run the original and keep its answer."""
    sys.path.insert(0, clone)
    case = CASES[name]
    network: nn.Module = getattr(importlib.import_module(case.module), case.make)(**case.settings)
    kept = {k: v for k, v in network.state_dict().items() if not k.endswith(OWN)}
    shapes = {key: list(value.shape) for key, value in kept.items()}
    network.load_state_dict(waved(shapes), strict=False)
    with torch.no_grad():
        out = case.call(network.eval(), *inputs(case))
    FOLDER.mkdir(parents=True, exist_ok=True)
    answer = out if isinstance(out, dict) else {"out": out}
    about = {"shapes": json.dumps(shapes), "source": case.source}
    save_file(
        {k: v.contiguous() for k, v in answer.items()}, FOLDER / f"{name}.safetensors", about
    )


if __name__ == "__main__":
    write(*sys.argv[1:])
