"""A second device in name: its tensors lie in the CPU's memory, and what mixes devices fails.

torch's CPU build has no device but the CPU, so a tensor that was forgotten there is found only on
a GPU. Tensors `Elsewhere` say that they are on "meta", hold ordinary numbers, and follow torch's
rules: operands share a device, but for numbers of no dimension, and a CPU tensor may index another
device's tensor but not the other way round. Like Apple's devices it has no float64.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "meta"
COPIES = {"aten::copy_", "aten::_to_copy"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index"}
NUMBERS = {"aten::_local_scalar_dense", "aten::equal"}


class Elsewhere(Tensor):
    """A tensor on the second device; `here` holds its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(  # pyright: ignore
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=torch.device(NAME),
            requires_grad=here.requires_grad,
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with SecondDevice():
            return func(*args, **(kwargs or {}))

    def tolist(self) -> Any:
        return self.here.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("numpy cannot read another device's memory: use Tensor.cpu() first")

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = NAME) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype).to(device)

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(torch.tensor(index) if isinstance(index, list) else index, value)


class SecondDevice(TorchDispatchMode):
    """Inside it the second device exists."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name, dict(kwargs or {})
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        ours = [t for t in tensors if isinstance(t, Elsewhere)]
        theirs = [t for t in tensors if not isinstance(t, Elsewhere)]
        assert all(t.device.type == "cpu" for t in theirs), f"{func} has lost its numbers"
        wanted = kwargs.get("device")
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        if ours and theirs and name not in COPIES and not _allowed(name, args, theirs):
            raise RuntimeError(f"{func}: tensors of {[tuple(t.shape) for t in theirs]} on the CPU")
        inner = tree_map(lambda t: t.here if isinstance(t, Elsewhere) else t, (args, kwargs))
        found = func(*inner[0], **inner[1])
        if name in NUMBERS:
            return found
        there = bool(ours) if wanted is None else torch.device(wanted).type == NAME
        cast = name == "aten::_to_copy" and found.dtype == torch.float64
        if there and cast and found.numel() > 1:  # torch's own quantile casts its rank
            raise TypeError("Apple's MPS has no float64")
        if name == "aten::copy_":
            there = isinstance(args[0], Elsewhere)
        same = {id(t.here): t for t in ours}  # what an operation in place returns

        def placed(t: Any) -> Any:
            return same.get(id(t), Elsewhere(t)) if there and isinstance(t, Tensor) else t

        return tree_map(placed, found)


def _allowed(name: str, args: Any, here: list[Tensor]) -> bool:
    if name in INDEXED:
        values = args[2] if len(args) > 2 else None
        other = isinstance(values, Tensor) and not isinstance(values, Elsewhere) and values.ndim
        return isinstance(args[0], Elsewhere) and not other
    return all(t.ndim == 0 for t in here)


@contextlib.contextmanager
def second_device(patch: Any) -> Any:
    """The device, with what torch does in C++ for devices that it knows done here."""
    generator, tensor, autocast = torch.Generator, torch.tensor, torch.autocast

    def made(data: Any, *args: Any, device: Any = None, **more: Any) -> Tensor:
        on = torch.device(device or "cpu")
        made_here = tensor(data, *args, device="cpu" if on.type == NAME else on, **more)
        return made_here.to(on)

    def cast(device: str, *args: Any, **more: Any) -> Any:
        return contextlib.nullcontext() if device == NAME else autocast(device, *args, **more)

    with patch.context() as patched, SecondDevice():
        patched.setattr(torch, "Generator", lambda device="cpu": generator("cpu"))
        patched.setattr(torch, "tensor", made)
        patched.setattr(torch, "autocast", cast)
        yield torch.device(NAME)
