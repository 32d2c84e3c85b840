"""What README, CONTRIBUTING and docs/ print works as printed, and lists what there is."""

import importlib.util
import math
import re
import shlex
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import test_sampler
import torch
import yaml
from analytic import SCHEDULES, Gaussian, silent
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from pydantic import Field
from running import here, own_package, tree, worked
from test_architecture import LEVEL

from diffgen.cli.config_files import config_dir
from diffgen.cli.recipe_choice import recipes
from diffgen.cli.registry import COMMANDS
from diffgen.config import schema
from diffgen.config.build import build, find
from diffgen.dataset.pixels import Range
from diffgen.evaluation.metrics import METRICS
from diffgen.interop.rules import RULES
from diffgen.sampler.ddim import DDIM
from diffgen.sampler.noise import STARTS
from diffgen.sampling.plan import CLIPS
from diffgen.sampling.request import request_of
from diffgen.schedule.linear import Linear
from diffgen.schedule.spacing import SPACINGS

ROOT = Path(__file__).parents[1]
CONFIGS = Path(config_dir())
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (*ROOT.glob("*.md"), *sorted(ROOT.glob("docs/*.md")))
}
OLD = ROOT / "tests/data/0.1.0"


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in a language, "" for commands."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def block(page: str, language: str, containing: str) -> str:
    return next(text for text in blocks(page, language) if containing in text)


# Links and pictures


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), target


def test_each_picture_is_small_and_shown():
    shown = {
        Path(t).name for text in PAGES.values() for t in re.findall(r"\(([^)]*\.png)\)", text)
    }
    found = {path.name: path.stat().st_size for path in (ROOT / "docs/images").iterdir()}
    assert shown == set(found)
    assert max(found.values()) < 120_000


@pytest.mark.parametrize("page", [p for p in PAGES if p.startswith("docs/")])
def test_a_page_opens_with_its_equation_and_a_picture(page):
    if (
        page not in ("docs/log.md", "docs/langevin.md", "docs/reliability.md")
        and "mnist_" not in page
    ):
        head = PAGES[page].split("\n## ")[0]
        assert "```" in head
        assert "](images/" in head


@pytest.fixture(scope="module")
def pictures():
    """The script that draws them."""
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "scripts/docs_pictures.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_draws_the_pictures_that_pages_say(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "IMAGES", tmp_path)
    monkeypatch.setattr(pictures, "STEPS", (5, 8))
    said = [re.findall(r"docs_pictures\.py ([a-z_ ]+)`", text) for text in PAGES.values()]
    names = sorted({name for found in said for words in found for name in words.split()})
    assert names == sorted(pictures.PICTURES)
    pictures.main(names)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn <= {path.name for path in (ROOT / "docs/images").iterdir()}
    for name in ("digits", "noising", "estimates"):
        mine, kept = (Image.open(at / f"{name}.png") for at in (tmp_path, ROOT / "docs/images"))
        assert np.abs(np.asarray(mine).astype(int) - np.asarray(kept)).max() <= 1


# Commands


def variables() -> dict[str, str]:
    """What blocks of commands call $NAME."""
    text = "\n".join(part for page in PAGES for part in blocks(page, ""))
    return dict(re.findall(r'^(\w+)="(.*?)"$', text.replace("\\\n", ""), re.MULTILINE))


def commands() -> Iterator[Any]:
    for page in PAGES:
        for line in "\n".join(blocks(page, "")).replace("\\\n", "").splitlines():
            if line.startswith("diffgen "):
                line = re.sub(r"\$(\w+)", lambda m: variables()[m[1]], line)
                yield pytest.param(shlex.split(line, comments=True)[1:], id=f"{page}: {line}")


def jobs(words: list[str]) -> list[list[str]]:
    """Overrides of as few jobs of a line as hold each value of a sweep."""
    parsed = OverridesParser.create().parse_overrides(words)
    values = [
        [f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line or ""]
        for o in parsed
    ]
    rows = range(max(map(len, values), default=1))
    return [[each[k % len(each)] for each in values] for k in rows]


@pytest.mark.parametrize("words", commands())
def test_a_command_composes(words, tmp_path, monkeypatch):
    command, *words = words
    assert command in COMMANDS
    if not COMMANDS[command].composed:
        assert here(tmp_path, command, *words).line().startswith(f"no {nothing(command)}")
        return
    monkeypatch.chdir(tmp_path)
    own_package(tmp_path)
    if "--help" in words:
        assert worked(here(tmp_path, command, *words)).out
        return
    configs = words[words.index("--config-dir") + 1] if "--config-dir" in words else None
    for flag in ("--cfg", "--info", "--config-dir"):
        if flag in words:
            del words[words.index(flag) : words.index(flag) + 2]
    sweep = "-m" in words
    for job in jobs([word for word in words if word != "-m"]):
        settings = tree(command, *job, configs=configs and str(tmp_path / configs))
        if not sweep:
            assert recipes(command, Namespace(config_dir=None, config_name=None))
        assert settings.plain


def nothing(command: str) -> str:
    """What a command without composition misses first, in an empty folder."""
    missed = {"table": "folder", "report": "folder", "import": "file", "evaluate": "images"}
    missed |= {"export": "checkpoint"}
    return missed[command]


# Tables of choices


def tables() -> Iterator[tuple[str, list[list[str]]]]:
    """Each table whose first head is a key: page, and its rows of cells."""
    for page, text in PAGES.items():
        for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
            rows = [re.split(r"\s*\|\s*", line)[1:-1] for line in table.splitlines()]
            if re.fullmatch(r"`\w+=?`", rows[0][0]):
                yield page, rows


def choices(rows: list[list[str]]) -> list[str]:
    return [name for row in rows[2:] for name in re.findall(r"`([\w-]+)`", row[0])]


def listed() -> dict[str, list[str]]:
    """The choices that pages list, by key; no key has two tables."""
    found: dict[str, list[str]] = {}
    for page, rows in tables():
        key = rows[0][0].strip("`=")
        assert key not in found, page
        found[key] = choices(rows)
    return found


def there() -> dict[str, set[str]]:
    groups = [path for path in CONFIGS.iterdir() if path.is_dir() and path.name != "hydra"]
    files = {group.name: {path.stem for path in group.glob("*.yaml")} for group in groups}
    return files | {
        "spacing": {*SPACINGS, "auto", "tuned"},
        "start": {*STARTS, "auto"},
        "clip": {*CLIPS, "auto"},
        "metrics": set(METRICS),
        "KIND": set(RULES),
    }


def test_every_group_has_a_table():
    assert set(listed()) | {"trainer"} == set(there())


@pytest.mark.parametrize("key", sorted(listed()))
def test_a_table_lists_every_choice_once_and_no_other(key):
    assert sorted(listed()[key]) == sorted(there()[key])


def rows_of(key: str) -> dict[str, dict[str, str]]:
    """The rows of a table of choices: {choice: {head: cell}}."""
    rows = next(rows for _, rows in tables() if rows[0][0].strip("`=") == key)
    return {choices([[], [], row])[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def test_samplers_cost_and_converge_as_their_table_says():
    measured = {"unipc": "unipc_3", "deis": "deis_3", "ddpm": "ddpm_fixedsmall"}
    for name, row in rows_of("sampler").items():
        found = test_sampler.SAMPLERS.get(measured.get(name, name))
        if found is None:
            continue
        _, order, cost = found
        said = {"noise": None, "adaptive": None}.get(row["order"], row["order"])
        assert (None if said is None else int(said)) == order, name
        if cost:
            nfe = re.sub(r"(\d|inner) n", r"\1 * n", row["evaluations"])
            assert eval(nfe, {"n": 12, "inner": 3}) == cost, name


@pytest.mark.parametrize("name", sorted(there()["sampler"] - {"own"}))
def test_samplers_stop_where_their_table_says(name):
    row, settings = rows_of("sampler")[name], tree("sample", f"sampler={name}").sampler
    own = find("sampler", settings.name).spacing
    assert row["`auto`"] == (own if settings.spacing == "auto" else settings.spacing)
    own = "its own" if row["`auto`"] == "ends" else "levels"
    assert row["steps"] == str(settings.steps or own)


SHAPES = {
    "digits": (1, 8, 10),
    "mnist": (1, 28, 10),
    "cifar10": (3, 32, 10),
    "folder": (3, 64, 0),
}
MEASURED = {  # in the data, which need not be there
    "ncsnv2_digits": ["schedule.sigma_max=8"],
    "ncsnv2_mnist": ["schedule.sigma_max=16.8758", "schedule.levels=95"],
}


@pytest.mark.parametrize("name", sorted(there()["recipe"] - {"none"}))
def test_recipes_are_as_large_and_as_long_as_their_table_says(name):
    model, _, dataset = name.partition("_")
    settings = tree("train", f"model={model}", f"dataset={dataset}", *MEASURED.get(name, []))
    channels, size, classes = SHAPES.get(dataset) or (3, settings.dataset.settings["size"], 0)
    with torch.device("meta"):
        shape = channels, size, size
        labels = classes if settings.recipe.model.labels else 0
        network = settings.recipe.raw_network(shape, labels)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    row, trainer = rows_of("recipe")[name], settings.trainer
    assert row["parameters"] == f"{millions:.2f} M"
    assert row["steps x batch"] == f"{trainer.max_steps:,} x {trainer.batch_size}"


def test_every_command_stands_in_the_readme():
    found = re.findall(r"^\| `diffgen (\w+)` \|", PAGES["README.md"], re.MULTILINE)
    assert sorted(found) == sorted(COMMANDS)


# Python


def test_python_runs_as_printed():
    """On a small checkpoint of 8x8 digits in the place of one of MNIST."""
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    for text in blocks("docs/python.md", "python"):
        text = text.replace("runs/mnist_ddpm/2026-11-21_12-00-00", str(OLD / "ddpm.ckpt"))
        exec(text.replace("28, 28", "8, 8"), names)
    assert names["images"].shape == (16, 1, 8, 8)
    assert names["bits"].isfinite().all()


def test_codes_and_likelihoods_as_printed():
    """On even bytes of a wide Gaussian, whose bits per number are known."""
    pixels, spread = Range(), 4.0
    denoiser = Gaussian(Linear(), spread)
    images = torch.arange(256, dtype=torch.uint8).reshape(16, 1, 4, 4)
    names = {"denoiser": denoiser, "schedule": denoiser.schedule, "pixels": pixels}
    names |= {"images": images, "label": None}
    exec(block("docs/python.md", "python", "hutchinson"), names)
    back = DDIM()(denoiser, names["code"], names["stops"], None, silent)
    assert (pixels.to_uint8(back).int() - images.int()).abs().max() <= 12  # 50 first-order steps
    x = pixels.to_model(images).double()
    nats = (x.square() / (2 * spread) + math.log(2 * math.pi * spread) / 2).flatten(1).mean(1)
    expected = (nats - math.log(names["width"])) / math.log(2)
    torch.testing.assert_close(names["bits"], expected, rtol=0, atol=0.02)


EXTENDING = "docs/extending.md"


@pytest.fixture
def midpoint(tmp_path, monkeypatch):
    """The page's sampler, its row put into the tests' list."""
    own_package(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    settings = yaml.safe_load((tmp_path / "mine/configs/sampler/midpoint.yaml").read_text())
    sampler = build("sampler", {"name": settings["name"]}, trust=["mine"])
    found = re.search(r'"midpoint": \(Midpoint\(\), (\d), (\d+)\)', PAGES[EXTENDING])
    assert found
    order, cost = map(int, found.groups())
    monkeypatch.setitem(test_sampler.SAMPLERS, "midpoint", (sampler, order, cost))
    monkeypatch.setitem(test_sampler.ORDERS, "midpoint", (sampler, order))
    return sampler


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_sampler_to_add_recovers_the_law(midpoint, schedule):
    test_sampler.test_the_law_of_the_mixture_is_recovered("midpoint", schedule)


@pytest.mark.parametrize("schedule", ["linear", "ve"])
def test_the_sampler_to_add_has_the_order_it_claims(midpoint, schedule):
    test_sampler.test_error_falls_with_the_order("midpoint", schedule)


def test_the_sampler_to_add_costs_what_it_claims(midpoint):
    test_sampler.test_cost("midpoint")


def test_the_data_set_to_add_gives_all_images_once(tmp_path, monkeypatch):
    own_package(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    pixels = np.arange(20 * 4 * 4 * 3, dtype=np.int64).reshape(20, 4, 4, 3) % 256
    np.savez(tmp_path / "some.npz", pixels.astype(np.uint8), np.arange(20) % 2)
    settings = yaml.safe_load((tmp_path / "mine/configs/dataset/npz.yaml").read_text())
    source = build("dataset", {**settings, "root": str(tmp_path / "some.npz")}, trust=["mine"])
    train, test = source.split("train"), source.split("test")
    assert (len(train), len(test), train.classes) == (18, 2, ("0", "1"))
    assert test.labels.tolist() == [0, 1]
    every = torch.arange(20)
    found = torch.cat([part.at(every[: len(part)]) for part in (train, test)])
    wanted = torch.from_numpy(pixels.astype(np.uint8)).permute(0, 3, 1, 2)
    assert sorted(map(tuple, found.flatten(1).tolist())) == sorted(
        map(tuple, wanted.flatten(1).tolist())
    )


def test_a_key_to_add_tells_two_ways_of_sampling_apart():
    """CONTRIBUTING's field, in a copy of the typed tree."""
    text = block("CONTRIBUTING.md", "python", "Identity")
    names = {"Annotated": Annotated, "Field": Field, "Identity": schema.Identity}
    body = f"class Longer(Sample):\n{text}"
    found: dict[str, Any] = {}
    exec(body, names | {"Sample": schema.Sample, "__name__": __name__}, found)
    line = yaml.safe_load(block("CONTRIBUTING.md", "yaml", "quantile"))
    plain = tree("sample", f"checkpoint={OLD / 'ddpm.ckpt'}").plain
    one, other = (
        request_of(found["Longer"].of({**plain, **given})) for given in (line, {"quantile": 0.9})
    )
    assert (one.identity()["quantile"], other.identity()["quantile"]) == (0.995, 0.9)
    assert one.exact() != other.exact()
    differ = {k for k, v in one.identity().items() if other.identity()[k] != v}
    assert differ == {"quantile"}


def test_rooms_stand_in_the_order_of_imports():
    """CONTRIBUTING's table names every room once, none before one that it may import."""
    rows = re.findall(r"^\| (`[^|]*) \|", PAGES["CONTRIBUTING.md"].split("\n## Adding")[0], re.M)
    named = [name for row in rows for name in re.findall(r"`(\w+)/?`", row)]
    rooms = [name for name in named if name in LEVEL]
    assert sorted(rooms) == sorted(set(LEVEL) - {"__init__", "__main__"})
    assert [LEVEL[name] for name in rooms] == sorted(LEVEL[name] for name in rooms)
