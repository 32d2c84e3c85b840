"""Files of published weights: found, or downloaded once, and checked before they are read."""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffgen.errors import UsageError
from diffgen.files import expanded

MEANWHILE = "until then features=classifier (needs labels), features=random or metrics=[] work"


@dataclass(frozen=True)
class Published:
    """Weights that their authors offer under `url` as `file`, for features=`features`.

    `sha256` is the hash of the file, "" where none is published: the hash of what was read stands
    in every row in either case.
    """

    features: str
    url: str
    file: str
    sha256: str = ""

    def located(self, given: str | None) -> tuple[Path, str]:
        """The file, and its SHA-256 in hexadecimal: `given`, or torch's cache, filled once.

        UsageError where it can neither be found nor downloaded, or is another file: reading it may
        run code.
        """
        path = expanded(given) if given else self._downloaded()
        if not path.is_file():
            raise UsageError(f"features.weights: no file {path}; it is {self.url}; {MEANWHILE}")
        digest = sha256_of_file(path)
        if not digest.startswith(self.sha256):
            raise UsageError(
                f"{path} is not {self.file}: its SHA-256 begins with {digest[:8]}, not "
                f"{self.sha256[:8]}; download {self.url} again"
            )
        return path, digest

    def _downloaded(self) -> Path:
        path = Path(torch.hub.get_dir(), "checkpoints", self.file)
        if not path.is_file():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(
                    self.url, str(path), hash_prefix=self.sha256 or None
                )
            except (OSError, RuntimeError) as error:
                raise UsageError(
                    f"the weights of features={self.features} cannot be downloaded ({error}): put "
                    f"{self.url} at {path}, or anywhere with features={self.features} "
                    f"features.weights=PATH; {MEANWHILE}"
                ) from error
        return path


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_in(path: Path) -> dict[str, Tensor]:
    """The tensors by name in a file of torch.save or safetensors; data alone, no code is run."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # whose text advises to run what it holds
        raise UsageError(
            f"features.weights={path} holds more than weights: it is not read"
        ) from None
    except Exception as error:  # readers of foreign files raise any kind
        first = str(error).strip().partition("\n")[0]
        raise UsageError(f"features.weights={path} cannot be read as weights ({first})") from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
        raise UsageError(f"features.weights={path} holds no weights by name (a state_dict)")
    return found


def filled(network: torch.nn.Module, state: dict[str, Tensor], path: Path, what: str) -> None:
    """Put the weights into a network; UsageError where they are another network's."""
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
        raise UsageError(
            f"features.weights={path} does not hold the weights of {what}: {reason[0][:200]}"
        ) from None
