"""What the README prints works as printed."""

import math
import re
from pathlib import Path

import pytest
import test_sampler
import torch
import yaml
from analytic import SCHEDULES, Gaussian, silent

import diffgen.sampler
from diffgen.cli.config_files import config_dir
from diffgen.cli.explained import Explanations
from diffgen.config.build import build
from diffgen.dataset.pixels import Range
from diffgen.sampler.ddim import DDIM
from diffgen.schedule.linear import Linear

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(language: str, containing: str) -> str:
    """The fenced block of the README in this language that contains a text."""
    found = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return next(text for text in found if containing in text)


@pytest.fixture
def midpoint(tmp_path, monkeypatch):
    """The README's sampler, its file put into the room, its row into the tests' list."""
    (tmp_path / "midpoint.py").write_text(block("python", "class Midpoint"))
    monkeypatch.setattr(diffgen.sampler, "__path__", [*diffgen.sampler.__path__, str(tmp_path)])
    settings = yaml.safe_load(block("yaml", "name: midpoint"))
    sampler = build("sampler", {"name": settings["name"]})
    order, cost = re.search(r'"midpoint": \(Midpoint\(\), (\d), (\d+)\)', README).groups()
    monkeypatch.setitem(test_sampler.SAMPLERS, "midpoint", (sampler, int(order), int(cost)))
    monkeypatch.setitem(
        test_sampler.test_error_falls_with_the_order.__globals__["ORDERS"],
        "midpoint",
        (sampler, int(order)),
    )
    return sampler


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_sampler_to_add_recovers_the_law(midpoint, schedule):
    test_sampler.test_the_law_of_the_mixture_is_recovered("midpoint", schedule)


@pytest.mark.parametrize("schedule", ["linear", "ve"])
def test_the_sampler_to_add_has_the_order_it_claims(midpoint, schedule):
    test_sampler.test_error_falls_with_the_order("midpoint", schedule)


def test_the_sampler_to_add_costs_what_it_claims(midpoint):
    test_sampler.test_cost("midpoint")


def test_codes_and_likelihoods_as_printed():
    """On even bytes of a wide Gaussian, whose bits per number are known."""
    pixels, spread = Range(), 4.0
    denoiser = Gaussian(Linear(), spread)
    images = torch.arange(256, dtype=torch.uint8).reshape(16, 1, 4, 4)
    told = {"denoiser": denoiser, "schedule": denoiser.schedule, "pixels": pixels}
    names = told | {"images": images, "label": None}
    exec(block("python", "hutchinson"), names)
    back = DDIM()(denoiser, names["code"], names["way"], None, silent)
    assert (pixels.to_uint8(back).int() - images.int()).abs().max() <= 12  # 50 first-order steps
    x = pixels.to_model(images).double()
    nats = (x.square() / (2 * spread) + math.log(2 * math.pi * spread) / 2).flatten(1).mean(1)
    expected = (nats - math.log(names["width"])) / math.log(2)
    torch.testing.assert_close(names["bits"], expected, rtol=0, atol=0.02)


def test_choices_that_are_listed_are_there():
    """Each row of the table of groups names files of that group, and forgets no class."""
    folder = Path(__file__).parents[1] / "configs"
    for group, listed in re.findall(r"^\| `(\w+)=` \| (.*) \|$", README, re.MULTILINE):
        files = {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob(f"{group}/*")}
        presets = {stem for stem, told in files.items() if told.get("name", stem) != stem}
        presets |= {stem for stem, told in files.items() if "defaults" in told}
        plain = set(files) - presets
        named = set(re.findall(r"`([a-z_0-9]+)`", listed))
        assert plain <= named <= set(files), group
