"""What the weights of score_sde's networks tell of them, module by module."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diffgen.errors import UsageError

ATTENTION_AT = 16  # pixels, in every released configuration
PYRAMIDS = ("residual", "skip")


@dataclass(frozen=True)
class Outline:
    """Settings of our SongUNet without attention, the levels that have it, channels of images."""

    network: dict[str, Any]
    attends: list[bool]
    channels: int

    def side(self, path: Path) -> int:
        """The size of the images if attention is where the released networks have it."""
        if sum(self.attends) != 1:
            raise UsageError(f"{path} does not tell the size of the images: give it (--size 32)")
        return ATTENTION_AT << self.attends.index(True)


def outline_of(state: Mapping[str, Tensor], settings: Mapping[str, Any], path: Path) -> Outline:
    """The network of a state; UsageError where it is none that our SongUNet can be."""
    model = settings.get("model", {})
    count = 1 + max(int(key.split(".")[1]) for key in state)
    kinds = [_kind(state, f"all_modules.{n}.") for n in range(count)]
    begin = 3 + (kinds[0] == "fourier")
    stem = state.get(f"all_modules.{begin - 1}.weight")
    levels = _levels(kinds, begin, path)
    lasts = [max(n for n in level if kinds[n] == "block") for level in levels]
    widths = [len(state[f"all_modules.{n}.Conv_0.weight"]) for n in lasts]
    if stem is None or stem.ndim != 4 or any(channels % len(stem) for channels in widths):
        raise UsageError(f"no import of {path}: its levels have {widths} channels")
    aside = next((kind for kind in kinds if kind in PYRAMIDS), "standard")
    _check_fir(state, aside, kinds, model, path)
    network = {
        "name": "song_unet",
        "width": len(stem),
        "multipliers": [channels // len(stem) for channels in widths],
        "blocks": sum(kinds[n] == "block" for n in levels[0]),
        "dropout": float(model.get("dropout", 0.1)),
        "embedding": "fourier" if kinds[0] == "fourier" else "sinusoid",
        "encoder": aside,
        "decoder": "skip" if kinds.count("norm") > 1 else "standard",
        "taps": [1, 3, 3, 1] if model.get("fir", aside != "standard") else [1, 1],
    }
    attends = [any(kinds[n] == "attention" for n in level) for level in levels]
    return Outline(network, attends, stem.shape[1])


def _check_fir(
    state: Mapping[str, Tensor], aside: str, kinds: list[str], model: Mapping[str, Any], path: Path
) -> None:
    """UsageError where the image on the way down is not halved as the setting model.fir has it.

    NCSN++'s residual images have a kernel of 3 x 3, under another name without the filter.
    """
    kernels = (
        state.get(f"all_modules.{n}.Conv_0.weight") for n, k in enumerate(kinds) if k == "skip"
    )
    strided = any(kernel is None or kernel.shape[-1] > 1 for kernel in kernels)
    if strided or (aside == "residual" and not model.get("fir", True)):
        kind = "strided convolutions" if strided else "the filter of model.fir=True"
        raise UsageError(
            f"no import of {path}: model.fir=False with NCSN++'s residual image, whose weights "
            f"are of {kind} (only model.fir=True)"
        )


def _levels(kinds: list[str], begin: int, path: Path) -> list[list[int]]:
    """The numbers of the modules of each level on the way down, its last change left out."""
    changes = [n for n, kind in enumerate(kinds) if kind == "change"]
    if not changes or len(changes) % 2:
        raise UsageError(f"no import of {path}: its blocks do not change the resolution")
    starts = [begin]
    for change in changes[: len(changes) // 2]:
        starts.append(change + (2 if kinds[change + 1] in PYRAMIDS else 1))
    blocks = sum(kind == "block" for kind in kinds[begin : changes[0]])
    levels = []
    for start in starts:
        level, at = [], start
        for _ in range(blocks):
            level.append(at)
            at += 1
            if at < len(kinds) and kinds[at] == "attention":
                level.append(at)
                at += 1
        levels.append(level)
    return levels


def _kind(state: Mapping[str, Tensor], prefix: str) -> str:
    """What a module of their list is, by its parts; a change is a block of another resolution."""
    parts = {key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}
    if "Dense_0" in parts:
        outputs, inputs = state[f"{prefix}Conv_0.weight"].shape[:2]
        return "change" if "Conv_2" in parts and inputs == outputs else "block"
    named = {"NIN_0": "attention", "Conv2d_0": "residual", "Conv_0": "skip", "W": "fourier"}
    for part, kind in named.items():
        if part in parts:
            return kind
    whole = state.get(f"{prefix}weight")
    return {1: "norm", 2: "linear", 4: "conv"}.get(0 if whole is None else whole.ndim, "none")
