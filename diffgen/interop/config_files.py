"""Configuration files of other programs, read as data and within bounds, without torch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from diffgen.errors import UsageError

LARGEST = 10**6  # bytes
VALUES = 10**4

Config = dict[str, Any]


def read_config(path: Path, named: Path | None = None) -> Config:
    """The `named` file, else config.yml beside a released file; {} where there is none.

    The authors' programs pickled argparse namespaces into it; they are read as mappings.
    """
    if named is not None:
        return parse_config(_text(named), named)
    for file in (path.parent / "config.yml", path.parent / "config.yaml"):
        if file.is_file():
            return parse_config(_text(file), file)
    return {}


def read_unet(path: Path, named: Path | None = None) -> Config:
    """{"unet": config.json of a UNet2DModel or of its pipeline's, "scheduler": that beside it}."""
    folder = path if path.is_dir() else path.parent
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    places = (folder, folder / "scheduler", folder.parent / "scheduler")
    files = [place / "scheduler_config.json" for place in places]
    scheduler = next((read_json(file) for file in files if file.is_file()), {})
    return {"unet": read_json(named or unet / "config.json"), "scheduler": scheduler}


def parse_config(text: str, source: Path) -> Config:
    """A YAML text whose Python objects are taken for the mappings that they were made of."""
    try:
        config = yaml.load(text, _DataLoader)
    except RecursionError:
        raise UsageError(f"{source} nests its settings too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{source} is no YAML: {first}") from None
    return _settings(config, source)


def read_json(path: Path) -> Config:
    """A JSON object; UsageError where the file is missing or broken."""
    try:
        return _settings(json.loads(_text(path)), path)
    except UsageError:
        raise
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is no JSON") from None


def _text(path: Path) -> str:
    if not path.is_file():
        raise UsageError(f"no file at {path}")
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"{path} is no configuration: it holds more than {LARGEST:,} bytes")
        return path.read_text()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text") from None
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror})") from None


def _settings(config: Any, source: Path) -> Config:
    if not isinstance(config, dict):
        raise UsageError(f"{source} holds no settings")
    for count, (depth, value) in enumerate(_walk(config)):
        long = isinstance(value, int) and value.bit_length() > 64
        if count > VALUES or depth > 20 or long:
            raise UsageError(f"{source} is no configuration: it holds too much")
    return config


def _walk(value: Any, depth: int = 0) -> Iterator[tuple[int, Any]]:
    yield depth, value
    if isinstance(value, dict | list | tuple) and depth <= 20:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _walk(inner, depth + 1)


class _DataLoader(yaml.SafeLoader):
    """SafeLoader that reads `!!python/object:...` mappings as mappings; nothing is imported."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("merged mappings are not read")


def _plain(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


_DataLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)
