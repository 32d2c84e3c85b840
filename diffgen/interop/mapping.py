"""States of parameters moved between names: each of ours is made of one or several of theirs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from diffgen.errors import UsageError

State = dict[str, Tensor]
Names = Mapping[str, Sequence[str]]


def adopt(state: Mapping[str, Tensor], names: Names, network: nn.Module) -> State:
    """`state` under our names: parts joined along the first axis, in the shapes of `network`.

    UsageError where a name is missing, left over or of another size: another architecture.
    """
    rest, ours = dict(state), {}
    for key, like in network.state_dict().items():
        missing = [name for name in names[key] if name not in rest]
        if missing:
            raise UsageError(f"the file lacks {missing[0]}: it holds another architecture")
        whole = torch.cat([rest.pop(name) for name in names[key]])
        reshaped = whole.ndim != like.ndim and whole.numel() == like.numel()
        if not reshaped and whole.shape != like.shape:
            raise UsageError(
                f"{names[key][0]} has another size than expected: {list(whole.shape)}"
            )
        ours[key] = whole.reshape(like.shape).to(like.dtype)
    if rest:
        raise UsageError(f"{next(iter(rest))} has no place here: it is of another architecture")
    return ours


def release(state: Mapping[str, Tensor], names: Names) -> State:
    """The inverse of `adopt` where the shapes are theirs, too: `state` under their names."""
    theirs: State = {}
    for key, value in state.items():
        parts = value.chunk(len(names[key]))
        theirs |= {n: part.clone() for n, part in zip(names[key], parts, strict=True)}
    return theirs
