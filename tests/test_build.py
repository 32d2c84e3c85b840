"""Objects from names and settings: what is refused, in which words, and what code may add."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import torch
from pydantic import Field

from diffgen.config.build import build, choice, find, typed
from diffgen.errors import UsageError, did_you_mean
from diffgen.network.unet import UNet
from diffgen.sampler.ddim import DDIM
from diffgen.schedule.linear import Linear
from diffgen.schedule.spacing import SPACINGS


@dataclass(frozen=True)
class Thing:
    size: Annotated[int, Field(ge=1)]
    kind: Literal["red", "blue"] = "red"
    ratios: tuple[float, ...] = (1.0,)
    limit: float | None = None


def test_a_name_and_settings_make_the_object():
    assert build("schedule", {"name": "linear", "levels": 500}) == Linear(levels=500)
    assert build("sampler", {"name": "ddim", "eta": 1}) == DDIM(eta=1.0)


def test_lists_and_whole_numbers_become_what_the_class_asks_for():
    thing = typed(Thing, "thing", {"size": 3, "ratios": [1, 2]})
    assert thing == Thing(3, ratios=(1.0, 2.0))
    assert isinstance(thing.ratios[0], float)


def test_code_supplies_what_the_config_does_not():
    context = {
        "channels": 1,
        "size": 8,
        "num_classes": 0,
        "has_noise_input": True,
        "unheard_of": 1,
    }
    settings = {"name": "unet", "width": 8, "groups": 4, "multipliers": [1], "blocks": 1}
    assert isinstance(build("network", settings, **context), UNet)
    with pytest.raises(UsageError, match=r"no network\.channels for network=unet"):
        build("network", {**settings, "channels": 3}, **context)


REFUSED = {
    "no name": ({}, "schedule.name is missing"),
    "misspelt name": ({"name": "liner"}, "no schedule=liner; did you mean linear?"),
    "base class": ({"name": "base"}, "no schedule=base; there is constant"),
    "package": ({"name": "linear.os"}, "no schedule=linear.os"),
    "number": ({"name": 3}, "no schedule=3"),
    "misspelt key": (
        {"name": "linear", "levles": 3},
        "no schedule.levles for schedule=linear; did you mean levels?",
    ),
    "word for a number": (
        {"name": "linear", "levels": "many"},
        "schedule.levels=many: input should be a valid integer",
    ),
    "part of a level": ({"name": "linear", "levels": 100.5}, "schedule.levels=100.5: input"),
    "foreign": ({"name": "os:system"}, "schedule=os:system is code outside diffgen"),
}


@pytest.mark.parametrize(("settings", "answer"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_names_the_key_and_the_remedy(settings, answer):
    with pytest.raises(UsageError) as caught:
        build("schedule", settings)
    assert str(caught.value).startswith(answer)
    assert "\n" not in str(caught.value)


TYPED = {
    "missing": ({}, "thing.size is missing"),
    "bound": ({"size": 0}, "thing.size=0: input should be greater than or equal to 1"),
    "choice": ({"size": 1, "kind": "green"}, "thing.kind=green: input should be 'red' or 'blue'"),
    "inside": ({"size": 1, "ratios": [1, "x"]}, "thing.ratios.1=x: input should be a valid"),
    "unknown": ({"size": 1, "colour": 3}, "no thing.colour; there is kind, limit, ratios, size"),
    "null": ({"size": None}, "thing.size=None: input should be a valid integer"),
}


@pytest.mark.parametrize(("settings", "answer"), TYPED.values(), ids=TYPED)
def test_types_are_those_of_the_annotations(settings, answer):
    with pytest.raises(UsageError) as caught:
        typed(Thing, "thing", settings)
    assert str(caught.value).startswith(answer)


def test_null_takes_away_a_key_of_another_class():
    assert typed(Thing, "thing", {"size": 1, "colour": None, "limit": None}) == Thing(1)


FLATTEN = "torch.nn.modules.flatten:Flatten"


@pytest.mark.parametrize("trust", ["torch", "torch.nn.modules", FLATTEN])
def test_classes_of_a_trusted_package_are_found(trust):
    assert find("network", FLATTEN, trust=[trust]) is torch.nn.Flatten


FOREIGN = {
    ("network", FLATTEN, "tor"): "is code outside diffgen; if you trust it, add trust=torch",
    ("network", FLATTEN, "torch.nn.modules.flatten:Unflatten"): "is code outside diffgen",
    ("network", "torch.nn.modules.flatten:Flaten", "torch"): "did you mean Flatten?",
    ("network", "torch.nn.modules.flatten:Tuple", "torch"): "no class 'Tuple'",
    ("network", "torch.nn.modules.flatten:_size", "torch"): "no class '_size'",
    ("network", "torch.utils.data.dataloader:Any", "torch"): "comes from typing, which trust=",
    ("network", "nowhere.nets:Net", "nowhere"): "no module nowhere for network=nowhere.nets:Net",
    ("network", "torch.nowhere:Net", "torch"): "no module torch.nowhere for network=",
    ("sampler", FLATTEN, "torch"): "is no Sampler",
    (
        "network",
        ":",
        "torch",
    ): "network=: is no class; one outside diffgen is ",
    ("network", "..torch:Net", "torch"): "is no class; one outside",
    ("network", "subprocess:Popen", "subprocess"): "is no Module",
}


@pytest.mark.parametrize(("foreign", "answer"), FOREIGN.items(), ids=map(str, FOREIGN))
def test_another_packages_class_is_refused_in_one_line(foreign, answer):
    room, name, trust = foreign
    with pytest.raises(UsageError, match=re.escape(answer)):
        find(room, name, trust=[trust])


@pytest.mark.parametrize(
    ("text", "answer"),
    {
        "import torch\nx = 1 / 0": "ZeroDivisionError: division by zero (",
        "class Net(": "SyntaxError: '(' was never closed (broken_0.py, line 1)",
        "import no_such_thing": "ModuleNotFoundError: No module named 'no_such_thing' (",
    }.items(),
)
def test_a_module_that_fails_names_its_line(text, answer, tmp_path, monkeypatch):
    name = f"broken_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError) as caught:
        find("network", f"{name}:Net", trust=[name])
    answer = answer.replace("broken_0", name)
    assert f"network={name}:Net cannot be imported: {answer}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_nearest_words_come_first():
    assert did_you_mean("trailng", SPACINGS) == "; did you mean trailing?"
    assert did_you_mean("zzz", ["b", "a"]) == "; there is a, b"


@pytest.mark.parametrize("name", ["unet", "mp_unet", "song_unet"])
def test_a_network_without_levels_or_beyond_all_memory_is_refused(name):
    with pytest.raises(UsageError, match=r"network\.multipliers=.* at least 1 item"):
        choice("network", {"name": name, "multipliers": []})
    huge = choice("network", {"name": name, "width": 10**9})
    with torch.device("meta"), pytest.raises(UsageError, match="is larger than any memory"):
        huge.build(channels=1, size=8)
