"""A recipe's network, made only where the tensors of a file fill it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from diffgen.errors import UsageError

BUFFERED = 2**24  # numbers that a network may keep besides its weights


def outline(make: Callable[[], nn.Module], state: Mapping[str, Tensor], path: object) -> nn.Module:
    """The network on the meta device, which has names and shapes but no memory.

    UsageError as soon as it has far more parameters than `state`, whose file `path` names: a
    recipe of a few bytes may ask for a network that fills any memory.
    """
    room = [2 * len(state) + 64, 2 * sum(t.numel() for t in state.values()) + 2**16]
    what = f"the recipe in {path} asks for a larger network than its weights fill"

    def count(*found: Any) -> None:
        room[0] -= 1
        room[1] -= 0 if found[2] is None else found[2].numel()
        if min(room) < 0:
            raise UsageError(what)

    handle = registration.register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            network = make()
    finally:
        handle.remove()
    if sum(math.prod(buffer.shape) for buffer in network.buffers()) > BUFFERED + room[1]:
        raise UsageError(what)
    return network
