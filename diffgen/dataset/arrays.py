"""Images in an .npz as evaluators of the field write them, and statistics of features in one."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diffgen.dataset.images import Images, in_memory
from diffgen.errors import UsageError
from diffgen.files import expanded

MOST_BYTES = 2**36  # that an array may unpack to


def arrays_in(path: str | Path) -> dict[str, NDArray[np.generic]]:
    """The arrays by name in an .npz; UsageError where it is none. Objects are never unpickled."""
    file = expanded(path)
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MOST_BYTES:
            raise UsageError(f"{path} unpacks to {unpacked >> 30} GiB, more than is read")
        with np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError:
        raise UsageError(f"no file {path}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"{path} is no .npz of plain arrays ({reason})") from error


def images_of(path: str | Path, arrays: dict[str, NDArray[np.generic]]) -> Images:
    """The images of `arr_0`, uint8 (N, H, W, C) or (N, H, W); labels of `arr_1` where it is there.

    `classes`, if present, names the labels, as in a samples.npz.
    """
    pixels = arrays.get("arr_0")
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or not len(pixels):
        found = "none" if pixels is None else f"{pixels.dtype} {pixels.shape}"
        raise UsageError(f"{path} needs an array arr_0, uint8 (N, H, W, C), and has {found}")
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if pixels.shape[-1] not in (1, 3, 4):
        raise UsageError(f"arr_0 of {path} is {pixels.shape}: channels come last, 1, 3 or 4")
    labels = arrays.get("arr_1")
    if labels is not None and (labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iu"):
        raise UsageError(f"arr_1 of {path} is {labels.dtype} {labels.shape}, not a label each")
    names = tuple(str(name) for name in arrays.get("classes", np.array([])))
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    given = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    return in_memory(tensor, given, names, Path(path).stem)
