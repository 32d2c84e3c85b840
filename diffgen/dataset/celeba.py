"""CelebA (Liu et al. 2015): aligned photographs of faces, cut as the papers cut them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from torchvision.datasets import CelebA

from diffgen.dataset.decode import Decoder
from diffgen.dataset.download import fetch
from diffgen.dataset.gather import gather
from diffgen.dataset.images import Images, Split, check_split
from diffgen.dataset.stores import Directory
from diffgen.dataset.streamed import OnError

FILES = "celeba/{img_align_celeba/000001.jpg...,list_eval_partition.txt}"
BOXES = {"ncsn": (19, 39, 159, 179), "ddim": (25, 57, 153, 185)}
PARTITION = {"train": "0", "test": "2"}


@dataclass(frozen=True)
class Celeba:
    """CelebA, unlabelled: 162,770 faces to train on, 19,962 to test; its validation part unused.

    Of the 178x218 pixels `crop` keeps the middle 140x140 (ncsn: both NCSN papers) or the 128x128
    around column 89, row 121 (ddim); then they are resized to `size`. Torchvision downloads them
    where it can (with the extra `celeba`); more than `memory_limit` GiB are decoded on access.
    """

    root: str = "data"
    crop: Literal["ncsn", "ddim"] = "ddim"
    size: int = 64
    on_error: OnError = "fail"
    memory_limit: float = 4.0
    flip: bool = True

    channels: ClassVar[int] = 3

    def split(self, which: Split) -> Images:
        """Images of (3, size, size)."""
        check_split(which)
        folder = fetch("celeba", _at_hand, self.root, FILES)
        listed = (line.split() for line in (folder / "list_eval_partition.txt").open())
        names = [name for name, part in listed if part == PARTITION[which]]
        decoder = Decoder(3, self.size, BOXES[self.crop])
        store, shape = Directory(folder / "img_align_celeba"), (3, self.size, self.size)
        return gather(
            store, names, decoder, shape, "celeba", self.memory_limit, on_error=self.on_error
        )


def _at_hand(folder: Path, download: bool) -> Path:
    """The folder of the aligned faces; torchvision's own check would ask for five more lists."""
    if download:
        CelebA(folder, "all", download=True)
    found = folder / CelebA.base_folder
    if not (found / "img_align_celeba").is_dir():
        raise FileNotFoundError(found / "img_align_celeba")
    (found / "list_eval_partition.txt").open().close()
    return found
