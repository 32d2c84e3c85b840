"""Where the log goes: csv, tensorboard, wandb or nowhere."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from diffgen.build import typed
from diffgen.errors import UsageError


def csv(folder: Path) -> Logger:
    """`metrics.csv` in the run's folder; a resumed run adds to it."""
    path = folder / "metrics.csv"
    before = path.read_text() if path.is_file() else ""
    logger = CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1)
    if before and rank_zero_only.rank == 0:
        logger.experiment.metrics_keys = before.splitlines()[0].split(",")
        path.write_text(before)  # which the line above has removed
    return logger


def tensorboard(folder: Path) -> Logger:
    """Event files in the run's folder; needs the extra `tensorboard`."""
    try:
        return TensorBoardLogger(folder, name="", version="")
    except ModuleNotFoundError:
        raise UsageError(
            "logger=tensorboard needs one more package: pip install 'diffgen[tensorboard]'"
        ) from None


def wandb(
    folder: Path,
    project: str = "diffgen",
    entity: str | None = None,
    group: str | None = None,
    offline: bool = False,
) -> Logger:
    """A run of Weights & Biases, its files in the run's folder; online it needs a login."""
    try:
        logger = WandbLogger(
            name=folder.name,
            save_dir=folder,
            project=project,
            entity=entity,
            group=group,
            offline=offline,
        )
        logger.experiment  # noqa: B018 (it starts the run)
    except ModuleNotFoundError:
        raise UsageError("logger=wandb needs one more package: pip install wandb") from None
    except Exception as error:  # wandb's own, which cannot be named where it is absent
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(
            f"wandb does not start ({reason}); set logger.offline=true, or another logger"
        ) from error
    return logger


def finish(loggers: Iterable[Any]) -> None:
    """Ends runs of Weights & Biases, which the next run of this process would else go on with."""
    for logger in loggers:
        if hasattr(logger.experiment, "finish"):
            logger.experiment.finish()


LOGGERS = {"csv": csv, "tensorboard": tensorboard, "wandb": wandb}


def logger_of(settings: Mapping[str, Any], folder: Path, config: dict[str, Any]) -> Logger | bool:
    """The logger named by settings, told the run's configuration; False for none."""
    options = dict(settings)
    name = options.pop("name")
    if name == "none":
        return False
    if name not in LOGGERS:
        raise UsageError(f"no logger={name}; there is {', '.join(LOGGERS)} and none")
    folder.mkdir(parents=True, exist_ok=True)
    logger = typed(LOGGERS[name], "logger", options, f" for logger={name}", folder=folder)
    logger.log_hyperparams(config)
    return logger
