"""Pickles of whole networks, such as EDM's, read as records without their code.

NVlabs' files pickle objects with the source of their classes, which their own program runs when it
reads them. Here a class is a name, an object a dict of what it holds, and a text of Python is no
more than a text: only the names in KNOWN may occur, none of which is looked up anywhere, and every
other name and operation is refused.
"""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.interop.files import check_file
from diffgen.runs.plain_pickle import DTYPES, OPERATIONS, DataUnpickler, Refused, reading
from diffgen.runs.torch_file import read_storage

MODULES = 10_000  # of a network
LARGEST = 2**40  # numbers of a tensor
Record = dict[str, Any]


def _persistent(meta: Any, *_: Any) -> Record:
    """An object of NVlabs' torch_utils.persistence: the name of its class and what it holds."""
    if type(meta) is not dict or type(meta.get("state")) is not dict:
        raise ValueError
    return {**meta["state"], "class_name": meta.get("class_name")}


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    numbers = [offset, *size, *stride]
    if not isinstance(storage, Tensor) or len(size) != len(stride):
        raise TypeError
    if any(type(n) is not int or not 0 <= n < LARGEST for n in numbers):
        raise ValueError
    view = storage.as_strided(size, stride, offset)
    if view.numel() > storage.numel():
        raise Refused("is not read: a tensor in it is larger than what is stored of it")
    return view


def _ignored(*_: Any) -> Record:
    return {}


CALLS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ignored,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch.storage", "_load_from_bytes"): read_storage,
    ("numpy", "dtype"): _ignored,
    ("numpy.core.multiarray", "scalar"): _ignored,
    ("numpy._core.multiarray", "scalar"): _ignored,
    ("torch", "device"): _ignored,
}
CLASSES = {
    ("dnnlib.util", "EasyDict"),
    ("torch.nn.modules.container", "ModuleDict"),
    ("torch.nn.modules.container", "ModuleList"),
}
MORE = "BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_SET ADDITEMS NEWOBJ"


class RecordUnpickler(DataUnpickler, operations=f"{OPERATIONS} {MORE}"):
    """Builds plain data and tensors; an object is a dict of what it holds."""

    def find_class(self, module: str, name: str) -> Any:
        where = module, name
        if where in CALLS:
            return CALLS[where]
        if where in CLASSES or (module == "torch" and name in DTYPES):
            return where
        raise Refused(f"names {module}.{name}, which no released network does, and is not read")

    def load_newobj(self) -> None:
        self.stack.pop()  # its arguments, of which dicts and containers have none
        if self.stack[-1] not in CLASSES:
            raise TypeError
        self.stack[-1] = {}

    def load_reduce(self) -> None:
        arguments, call = self.stack.pop(), self.stack[-1]
        if call not in CALLS.values():
            raise TypeError
        self.stack[-1] = call(*arguments)

    def load_build(self) -> None:
        state, into = self.stack.pop(), self.top(dict)
        into |= state if type(state) is dict else {}

    def load_additems(self) -> None:
        values = self.pop_mark()
        self.top(set).update(value for value in values if type(value) is str)


def read_records(path: Path) -> Record:
    """The dict in a pickle of NVlabs; UsageError where it is damaged or holds anything else."""
    check_file(path)
    with reading(path, "pickle of a network"):
        data = RecordUnpickler(io.BytesIO(path.read_bytes())).load()
    if type(data) is not dict:
        raise UsageError(f"{path} holds no network")
    return data


def tensors(record: Record, path: Path) -> dict[str, Tensor]:
    """The state_dict of a record of a network: its parameters and buffers by their full names."""
    state: dict[str, Tensor] = {}
    for count, (prefix, module) in enumerate(_modules(record)):
        if count > MODULES:
            raise UsageError(f"{path} holds more modules than a network has")
        for group in ("_parameters", "_buffers"):
            own = module.get(group)
            found = own if isinstance(own, Mapping) else {}
            state |= {prefix + key: v for key, v in found.items() if isinstance(v, Tensor)}
    return {key: value.to(torch.float32) for key, value in state.items()}


def _modules(record: Record, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Record]]:
    yield prefix, record
    inside = record.get("_modules")
    if isinstance(inside, Mapping) and depth < 20:
        for name, module in inside.items():
            if isinstance(module, Mapping):
                yield from _modules(dict(module), f"{prefix}{name}.", depth + 1)
