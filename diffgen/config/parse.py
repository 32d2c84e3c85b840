"""A composed configuration made into a command's typed tree."""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffgen.config.schema import SETTINGS
from diffgen.errors import UsageError


def check(command: str, config: DictConfig) -> Any:
    """The tree of a command; UsageError with the first wrong value and what fits."""
    return SETTINGS[command].of(plain(config))


def plain(config: DictConfig) -> dict[str, Any]:
    """The config's own values, resolved, without Hydra's and without those still missing."""
    given = {}
    try:
        for key in map(str, config):
            if key != "hydra" and not OmegaConf.is_missing(config, key):
                node = config[key]
                is_node = OmegaConf.is_config(node)
                given[key] = OmegaConf.to_container(node, resolve=True) if is_node else node
    except OmegaConfBaseException as error:
        raise UsageError(str(error).splitlines()[0]) from error
    return given
