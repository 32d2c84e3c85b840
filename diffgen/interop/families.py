"""The programs whose files are read by families of networks, each by its own reader."""

from pathlib import Path

import torch

from diffgen.config.recipe import recipe_of
from diffgen.errors import UsageError
from diffgen.interop.dit import read_dit
from diffgen.interop.files import State, adopt
from diffgen.interop.nvlabs import read_edm, read_edm2
from diffgen.interop.openai import read_adm, read_improved
from diffgen.interop.release import Reader, Release, Settings
from diffgen.interop.score_sde import read_score_sde

FAMILIES: dict[str, Reader] = {
    "adm": read_adm,
    "dit": read_dit,
    "edm": read_edm,
    "edm2": read_edm2,
    "improved-diffusion": read_improved,
    "score_sde": read_score_sde,
}


def read_family(
    kind: str, path: Path, size: int | None, settings: Settings
) -> tuple[Release, State, State]:
    """What a released file holds, its weights and average ({} without one) as our network's.

    `size` in pixels where no file tells it, `settings` what a configuration beside it says.
    UsageError for a file that is damaged, foreign, or of another architecture.
    """
    try:
        found = FAMILIES[kind](path, size, settings)
        if size not in (None, found.shape[1]):
            raise UsageError(f"--size {size}: {path} is of images of {found.shape[1]} pixels")
        return found, *_weights(found)
    except UsageError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError):
        raise UsageError(f"{path} is damaged, or no {kind}") from None


def _weights(found: Release) -> tuple[State, State]:
    recipe = recipe_of(found.recipe)
    with torch.device("meta"):  # names and shapes, but no memory
        network = recipe.raw_network(found.shape, found.classes)

    def ours(state: State) -> State:
        return adopt(found.rewrite(state, network), found.names(network), network)

    return ours(found.state), ours(found.average) if found.average else {}
