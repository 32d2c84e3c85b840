"""Weights and images that anyone can write down: waves, for parity with other people's code."""

import torch
from torch import Tensor, nn

from diffgen.interop.files import Names, State, adopt


def waves(count: int, phase: float = 0.0) -> Tensor:
    return torch.cos(torch.arange(count, dtype=torch.float64) ** 1.1 + phase)


def wave(network: nn.Module, names: Names) -> None:
    """Give `network` waves for weights, in the order of their `names`, sorted.

    Kernels, of two or four axes, are scaled to keep the variance; norms and biases by a half.
    """
    ours = {name: key for key, parts in names.items() for name in parts}
    state: State = {}
    for phase, name in enumerate(sorted(ours)):
        like = network.get_parameter(ours[name])
        kernel = like.ndim in (2, 4)
        scale = 1.5 * (like.numel() / like.shape[0]) ** -0.5 if kernel else 0.5
        count = like.numel() // len(names[ours[name]])
        state[name] = scale * waves(count, phase)
    network.load_state_dict(adopt(state, names, network))
