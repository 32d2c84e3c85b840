"""Pickles of plain data and tensors: an unpickler that knows nothing else and stays small.

Python's own runs what a pickle says, and torch's restricted one still builds what may take all
memory (bytearrays of any length) or all time (keys of nested tuples, whose hashes never end).
"""

import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from diffgen.errors import UsageError

PICKLED = 2**23  # bytes of a file besides its tensors
LARGEST_INT_KEY = 2**24  # greater ones could all fall into one slot of a dict


class Dtype(NamedTuple):
    """A type of numbers: what torch, which is slow to import, calls it, and its bytes."""

    name: str
    itemsize: int


DTYPES = {
    "BFloat16Storage": Dtype("bfloat16", 2),
    "BoolStorage": Dtype("bool", 1),
    "ByteStorage": Dtype("uint8", 1),
    "CharStorage": Dtype("int8", 1),
    "DoubleStorage": Dtype("float64", 8),
    "FloatStorage": Dtype("float32", 4),
    "HalfStorage": Dtype("float16", 2),
    "IntStorage": Dtype("int32", 4),
    "LongStorage": Dtype("int64", 8),
    "ShortStorage": Dtype("int16", 2),
}
OPERATIONS = (
    "PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 "
    "BINFLOAT BINUNICODE SHORT_BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST "
    "APPEND APPENDS EMPTY_DICT SETITEM SETITEMS BINPUT LONG_BINPUT MEMOIZE BINGET "
    "LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD"
)


class Refused(Exception):
    """What speaks against a file, to be said after its path."""


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Within it whatever goes wrong with a file of some kind is a UsageError."""
    try:
        yield
    except UsageError:
        raise
    except Refused as error:
        raise UsageError(f"{path} {error}") from None
    except MemoryError:
        raise UsageError(f"{path} needs more memory than there is") from None
    except PermissionError as error:
        raise UsageError(f"cannot read {path} ({error.strerror})") from None
    except Exception:  # damaged bytes fail in every possible way
        raise UsageError(f"{path} is truncated, damaged or no {kind}") from None


@dataclass(frozen=True)
class Storage:
    """Numbers of a file by the key of its member; what of them a tensor shows is a View."""

    dtype: Dtype
    key: str
    count: int


@dataclass(frozen=True, eq=False)
class View:
    """A tensor as a part of a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _view(storage: Storage, offset: int, size: Any, stride: Any, *_: Any) -> View:
    numbers = [offset, *size, *stride]
    if any(type(n) is not int or n < 0 for n in numbers) or not len(size) == len(stride) <= 8:
        raise ValueError
    count, last = math.prod(size), sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if count > storage.count or (count and offset + last >= storage.count):
        raise Refused("is not read: a tensor in it is larger than what is stored of it")
    return View(storage, offset, tuple(size), tuple(stride))


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): lambda: {},
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("torch._utils", "_rebuild_parameter"): lambda view, *_: view,
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


class Bounded:
    """A file from which at most PICKLED bytes are read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, PICKLED

    def read(self, count: int) -> bytes:
        self._take(count)
        return self.file.read(count)

    def readline(self) -> bytes:
        line = self.file.readline(1000)
        self._take(len(line))
        return line

    def _take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise Refused(f"is not read: it holds more than {PICKLED:,} bytes besides tensors")


class DataUnpickler(pickle._Unpickler):  # in Python, so that its operations can be chosen
    """Builds numbers, texts, lists and dicts; any operation but a subclass's own is an error."""

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init_subclass__(cls, operations: str) -> None:
        codes = [getattr(pickle, name)[0] for name in operations.split()]
        names = {code: pickle._Unpickler.dispatch[code].__name__ for code in codes}
        cls.dispatch = {code: getattr(cls, name) for code, name in names.items()}

    def top(self, kind: type) -> Any:
        found = self.stack[-1]
        if type(found) is not kind:
            raise TypeError
        return found

    def load_append(self) -> None:
        value = self.stack.pop()
        self.top(list).append(value)

    def load_appends(self) -> None:
        values = self.pop_mark()
        self.top(list).extend(values)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.put([key, value])

    def load_setitems(self) -> None:
        self.put(self.pop_mark())

    def put(self, items: list[Any]) -> None:
        into = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str and not (type(key) is int and 0 <= key < LARGEST_INT_KEY):
                raise TypeError
            into[key] = value


class Unpickler(DataUnpickler, operations=f"{OPERATIONS} BINPERSID"):
    """Builds plain data and Views, and knows no other names."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.storages: list[Storage] = []

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise Refused(
                f"holds more than plain data ({module}.{name}) and is not read: it may run code"
            )
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, count, *view = pid
        known = kind == "storage" and isinstance(dtype, Dtype) and view in ([], [None])
        if not known or type(key) is not str or type(count) is not int or count < 0:
            raise ValueError
        self.storages.append(Storage(dtype, key, count))
        return self.storages[-1]

    def load_build(self) -> None:
        self.stack.pop()  # the attributes of an OrderedDict, which nobody needs
        self.top(dict)
