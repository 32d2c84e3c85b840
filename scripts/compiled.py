"""Every network compiled against itself as it is: what it gives, and its gradient.

    python scripts/compiled.py [aot_eager | inductor] [NETWORK ...] [--bf16]

Small networks for 8 x 8 grey images, in training mode and without dropout, are compiled to one
graph (`fullgraph=True`, which refuses what falls back to Python). A row has the largest difference
of the output over its largest number, that of the gradient over its norm, and the seconds of the
first call. --bf16 runs both under autocast. Then, not compiled: the difference that the layout
channels_last makes, and whether all gradients are finite in bfloat16.
"""

import argparse
import time
from typing import Any

import torch
from torch import Tensor, nn

from diffgen.config.build import build

TWO = {"width": 16, "multipliers": [1, 2], "blocks": 1, "dropout": 0.0}
NETWORKS: dict[str, dict[str, Any]] = {
    "unet": {**TWO, "name": "unet", "attention": [4]},
    "unet_adm": {
        **{**TWO, "name": "unet", "attention": [4], "head_width": 8, "norm_eps": 1e-5},
        **{"embedding": "scale_shift", "downsample": "residual", "frequencies": "cosine"},
    },
    "song_unet": {**TWO, "name": "song_unet", "attention": [4]},
    "song_unet_ncsnpp": {
        **{**TWO, "name": "song_unet", "attention": [4], "embedding": "fourier"},
        **{"encoder": "residual", "taps": [1, 3, 3, 1]},
    },
    "mp_unet": {**TWO, "name": "mp_unet", "attention": [4], "head_width": 16},
    "dit": {"name": "dit", "width": 24, "depth": 2, "heads": 3},
    "dilated": {"name": "dilated", "width": 8},
    "refinenet": {"name": "refinenet", "width": 4},
    "ncsn_refinenet": {"name": "ncsn_refinenet", "width": 4},
}
INPUTS = (
    torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
    torch.tensor([0.0, 1.0, 5.0, 9.0]),
    torch.tensor([0, 1, 2, 3]),
)


def network_of(name: str) -> nn.Module:
    """A network without labels dropped, every parameter of it random."""
    more = {"has_noise_input": name != "refinenet", "levels": 10}
    network = build("network", NETWORKS[name], channels=1, size=8, num_classes=3, **more)
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return network.train()


def answer(network: nn.Module, call: Any, bf16: bool) -> tuple[Tensor, Tensor]:
    """What it gives, and the gradient of its mean square as one vector."""
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = call(*INPUTS).float()
    out.square().mean().backward()
    kept = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return out.detach(), torch.cat(kept)


def row(name: str, backend: str, bf16: bool) -> str:
    network = network_of(name)
    out, gradient = answer(network, network, bf16)
    torch.compiler.reset()
    start = time.monotonic()
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    found, other = answer(network, compiled, bf16)
    took = time.monotonic() - start
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    moved, _ = answer(network, network, bf16)
    _, small = answer(network, network, True)
    return (
        f"| {name} | {(found - out).abs().max() / out.abs().max():.1e} | "
        f"{(other - gradient).norm() / gradient.norm():.1e} | {took:.0f} | "
        f"{(moved - out).abs().max() / out.abs().max():.1e} | {bool(small.isfinite().all())} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", nargs="?", default="aot_eager")
    parser.add_argument("names", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    print("| network | output | gradient | seconds | channels_last | finite in bfloat16 |")
    print("|---|---:|---:|---:|---:|---|")
    for name in options.names or NETWORKS:
        print(row(name, options.backend, options.bf16), flush=True)


if __name__ == "__main__":
    main()
