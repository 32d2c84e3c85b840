"""Loggers: csv, tensorboard, wandb or none."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from diffgen.config.build import typed
from diffgen.config.parts import Named
from diffgen.errors import UsageError
from diffgen.files import write_text
from diffgen.runtime.metrics_csv import MetricsCsv


@dataclass(frozen=True)
class Csv:
    """`metrics.csv` in the run's folder; a resumed run adds to it."""

    def ready(self) -> None:
        """Nothing to wait for."""

    def start(self, folder: Path) -> Logger:
        """The logger that writes into a folder."""
        return MetricsCsv(folder / "metrics.csv")


@dataclass(frozen=True)
class TensorBoard:
    """Event files in the run's folder; needs the extra `tensorboard`."""

    def ready(self) -> None:
        """UsageError where the package is missing."""
        if not any(map(find_spec, ("tensorboard", "tensorboardX"))):
            raise UsageError(
                "logger=tensorboard needs one more package: pip install 'diffgen[tensorboard]'"
            )

    def start(self, folder: Path) -> Logger:
        """The logger that writes into a folder."""
        self.ready()
        return TensorBoardLogger(folder, name="", version="")


@dataclass(frozen=True)
class Wandb:
    """A run of Weights & Biases, its files in the run's folder; online it needs a login."""

    project: str = "diffgen"
    entity: str | None = None
    group: str | None = None
    offline: bool = False

    def ready(self) -> None:
        """UsageError where the package or, online, the login is missing."""
        with _one_line_errors_of_wandb():
            import wandb

            if not self.offline and os.environ.get("WANDB_MODE", "online") == "online":
                wandb.login(verify=False)

    def start(self, folder: Path) -> Logger:
        """The logger of a run that has begun, or that goes on with the run begun in the folder."""
        kept = folder / "wandb_id"
        known = kept.read_text() if kept.is_file() else None
        with _one_line_errors_of_wandb():
            logger = WandbLogger(name=folder.name, save_dir=folder, id=known, **asdict(self))
            logger.experiment  # noqa: B018 (it starts the run)
        name = logger.version
        if name and name != known:  # on the first rank, which knows it
            write_text(kept, name)
        return logger


@contextmanager
def _one_line_errors_of_wandb() -> Iterator[None]:
    """Turns any error of wandb into a UsageError."""
    try:
        yield
    except ModuleNotFoundError:
        raise UsageError("logger=wandb needs one more package: pip install wandb") from None
    except Exception as error:  # wandb's own, which cannot be named where it is absent
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(
            f"wandb does not start ({reason}); set logger.offline=true, or another logger"
        ) from error


def finish(loggers: Iterable[Any]) -> None:
    """Ends runs of Weights & Biases, which the next run of this process would else go on with."""
    for logger in loggers:
        if hasattr(logger.experiment, "finish"):
            logger.experiment.finish()


LOGGERS = {"csv": Csv, "tensorboard": TensorBoard, "wandb": Wandb}


def ready(settings: Named) -> None:
    """UsageError where the logger named by settings could not start."""
    if found := _named(settings):
        found.ready()


def logger_of(settings: Named, folder: Path, config: dict[str, Any]) -> Logger | bool:
    """The logger named by settings, told the run's configuration; False for none."""
    found = _named(settings)
    if found is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    logger = found.start(folder)
    logger.log_hyperparams(config)
    return logger


def _named(settings: Named) -> Csv | TensorBoard | Wandb | None:
    name = settings.name
    if name == "none":
        return None
    if name not in LOGGERS:
        raise UsageError(f"no logger={name}; there is {', '.join(LOGGERS)} and none")
    return typed(LOGGERS[name], "logger", settings.settings, f" for logger={name}")
