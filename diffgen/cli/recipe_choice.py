"""The recipe of a line's model and data set, put among its words where nobody named one."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from diffgen.cli.config_files import defaults, find, folders, read

KEYS = ("model", "dataset", "dataset.category")


@dataclass(frozen=True)
class Recipes:
    """Finds the recipe `<model>_<dataset>` of a job among the files of configs.

    `defaults` has the choices of the command's own config.
    """

    folders: tuple[Path, ...]
    defaults: dict[str, str]

    def of(self, overrides: Sequence[str]) -> list[str]:
        """`recipe=<model>_<dataset>`, if that file exists and the overrides name none, else []."""
        parsed = parse(overrides) if self.apply else []
        stated = [o for o in parsed if o.key_or_group in KEYS]
        if not self.apply or names_recipe(parsed) or any(o.is_sweep_override() for o in stated):
            return []
        made = self.defaults | {o.key_or_group: str(o.value()) for o in stated}
        for dataset in self.names(made["dataset"], made.get("dataset.category")):
            name = f"{made['model']}_{dataset}"
            if find(self.folders, f"recipe/{name}"):
                return [f"recipe={name}"]
        return []

    @property
    def apply(self) -> bool:
        """Whether the command takes recipes at all."""
        return {"recipe", "model", "dataset"} <= self.defaults.keys()

    def names(self, dataset: str, category: str | None) -> Iterator[str]:
        """The choices that are this data set: `lsun` of category bedroom is `lsun_bedroom`."""
        path = find(self.folders, f"dataset/{dataset}")
        own = read(path) if path else {}
        if "category" not in own:
            yield dataset
            return
        wanted = own["name"], category or own["category"]
        for folder in self.folders:
            for other in sorted(folder.glob("dataset/*.yaml")):
                if (read(other).get("name"), read(other).get("category")) == wanted:
                    yield other.stem

    def added(self, overrides: Sequence[str]) -> list[str]:
        """The overrides with the recipe, put first, where one applies to all their jobs."""
        return [*self.of(overrides), *overrides]


@contextmanager
def recipe_per_job(found: Recipes, overrides: Sequence[str]) -> Iterator[None]:
    """Gives each job of a sweep its own recipe, if the overrides of the line name none."""
    global _sweeping
    if not names_recipe(parse(overrides)):
        _sweeping = found
    try:
        yield
    finally:
        _sweeping = None


def job_with_recipe(overrides: list[str]) -> list[str]:
    """The overrides of one job of the running sweep, with the recipe of its own model and data."""
    if _sweeping is None:
        return overrides
    return _sweeping.added([o for o in overrides if not o.startswith("recipe=")])


def needs_own_sweeper(overrides: Sequence[str]) -> bool:
    """Whether the jobs differ in their recipes, which only Hydra's own sweeper is made for."""
    if _sweeping is None or not _sweeping.apply:
        return False
    return any(o.key_or_group in KEYS and o.is_sweep_override() for o in parse(overrides))


def recipes(command: str, args: Namespace) -> Recipes:
    """The recipes that a command may take by itself."""
    found = folders(args)
    name = (args.config_name or command).removesuffix(".yaml")
    return Recipes(found, defaults(found, name))


def completed(command: str, words: list[str]) -> list[str]:
    """The words of an unfinished line, with the recipe of those before the last one."""
    *before, last = words
    args = Namespace(config_dir=None, config_name=None)
    return [*recipes(command, args).added(before), last]


def parse(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them; none where it cannot, which it reports itself."""
    try:
        hydra = GlobalHydra.instance()
        loader = hydra.config_loader() if hydra.is_initialized() else None  # glob() needs it
        return OverridesParser.create(loader).parse_overrides(list(overrides))
    except HydraException:
        return []


def names_recipe(overrides: Sequence[Override]) -> bool:
    return any(override.key_or_group == "recipe" for override in overrides)


_sweeping: Recipes | None = None  # what gives the jobs of the running sweep their recipes
