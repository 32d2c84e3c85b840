"""What the README prints works as printed."""

import re
from pathlib import Path

import pytest
import yaml
from test_sampler import SAMPLERS, test_cost, test_error_falls_with_the_order

import diffgen.sampler
from diffgen.build import build

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
    monkeypatch.setitem(SAMPLERS, "midpoint", (sampler, int(order), int(cost)))
    monkeypatch.setitem(
        test_error_falls_with_the_order.__globals__["ORDERS"], "midpoint", (sampler, int(order))
    )
    return sampler


@pytest.mark.parametrize("schedule", ["linear", "ve"])
def test_the_sampler_to_add_has_the_order_it_claims(midpoint, schedule):
    test_error_falls_with_the_order("midpoint", schedule)


def test_the_sampler_to_add_costs_what_it_claims(midpoint):
    test_cost("midpoint")


def test_choices_that_are_listed_are_there():
    """Each row of the table of groups names files of that group, and forgets none."""
    folder = Path(__file__).parents[1] / "configs"
    for group, listed in re.findall(r"^\| `(\w+)=` \| (.*) \|$", README, re.MULTILINE):
        there = {path.stem for path in (folder / group).glob("*.yaml")}
        named = set(re.findall(r"`([a-z_0-9]+)`", listed))
        assert named == there, group
