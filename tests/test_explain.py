"""`diffgen explain`: what it tells is so, what it warns of is doubtful, and it downloads nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from running import Done, here, worked

from diffgen.dataset import torchvision_sets
from diffgen.schedule.ncsnv2 import overlap

NOWHERE = "dataset.root=nowhere"


def explained(folder: Path, *words: str) -> tuple[Done, dict[str, Any]]:
    """How the command ended, and the numbers it wrote."""
    done = worked(here(folder, "explain", *words))
    assert Image.open(folder / done.folder / "explain.png").width > 1000
    return done, json.loads((folder / done.folder / "explain.json").read_text())


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    """Nothing is measured for the user's real cache, and nothing is downloaded."""
    real = torchvision_sets.fetch

    def fetch(name: str, make: Any, root: str, files: str) -> Any:
        def checked(folder: Path, download: bool) -> Any:
            assert not download, "explain downloads"
            return make(folder, download)

        return real(name, checked, root, files)

    monkeypatch.setattr(torchvision_sets, "fetch", fetch)


def test_ncsnv2_of_the_digits(tmp_path):
    done, told = explained(tmp_path, "model=ncsnv2", "schedule=ncsnv2")
    ratio = (4.81372 / 0.01) ** (1 / 20)
    assert told["levels"] == 21
    assert told["sigma"] == pytest.approx([0.01, 4.81372])
    assert told["distance"] == pytest.approx(4.813716, rel=1e-6)
    assert told["ratio"] == pytest.approx([ratio, ratio])
    assert told["overlap"] == pytest.approx([overlap(ratio, 64)] * 2)
    assert told["terminal_alpha"] == 1
    assert told["snr"] == pytest.approx([1e4, 4.81372**-2])
    assert told["nfe"] == 21 * 5 + 1
    assert told["recipe"] == "recipe/ncsnv2_digits.yaml"
    assert told["warnings"] == []
    assert told["config"]["schedule"]["levels"] == 21
    assert "sigma_max=4.81372: the largest distance between two of 1438 images" in done.out


def test_step_sizes_of_a_published_ladder(tmp_path):
    _, told = explained(tmp_path, "model=ncsnv2", "dataset=cifar10", NOWHERE)
    langevin = told["langevin"]
    assert (langevin["epsilon"], langevin["inner"]) == (pytest.approx(6.2e-6), 5)
    assert langevin["left"] == pytest.approx(1.0555, abs=1e-4)
    assert langevin["best"] == pytest.approx(6.18e-6, rel=2.5e-3)
    assert told["nfe"] == 1161
    assert told["parameters"] == pytest.approx(29.7e6, rel=0.01)


def test_ddpm_of_cifar_10_without_its_files(tmp_path):
    done, told = explained(tmp_path, "dataset=cifar10", NOWHERE)
    assert told["parameters"] == 35_746_307
    assert told["terminal_alpha"] == pytest.approx(0.006353, rel=1e-3)
    assert told["snr"][1] == pytest.approx(4.036e-5, rel=1e-3)
    assert (told["nfe"], told["distance"], told["warnings"]) == (1000, None, [])
    assert "not at hand" in done.out
    assert "diffgen sample sampler=ddpm sampler.variance=fixedlarge" in done.out


COSTS = {
    "heun": (("sampler=heun", "sampler.steps=18"), 35),
    "langevin": (("sampler=langevin", "sampler.steps=40", "sampler.inner=3"), 121),
    "not denoised": (("sampler=langevin", "sampler.steps=40", "sampler.denoise=false"), 200),
    "pc": (("sampler=pc", "sampler.steps=10"), 20),
    "rk45": (("sampler=rk45",), None),
}


@pytest.mark.parametrize(("words", "nfe"), COSTS.values(), ids=COSTS)
def test_evaluations_per_image(words, nfe, tmp_path):
    assert explained(tmp_path, *words)[1]["nfe"] == nfe


WARNINGS = {
    "gaps": (("model=ncsn",), ["do not overlap (C = 0.0", "is small against the data"]),
    "visible": (
        ("model=ncsnv2", "schedule=geometric", "schedule.sigma_min=0.05"),
        ["visible: its noise is 12.8 grey levels"],
    ),
    "narrow": (
        ("schedule=ve", "schedule.sigma_max=2", "model.range=unit", "model.noise_input=nothing"),
        ["2, is small against the data, whose images lie up to 4.814 apart"],
    ),
    "short": (
        ("schedule=linear", "schedule.levels=700", "schedule.rescale=false"),
        ["not rescaled for 700 levels: 0.029 of"],
    ),
    "warm": (("model=ncsnv2",), []),
    "none": (("schedule=linear", "schedule.levels=300"), []),
    "early": (
        ("model=ncsnv2", "ema.average.warmup=false", "trainer.max_steps=4000"),
        ["1.8 % of the average 'average' are the first random weights, after 4000 steps"],
    ),
    "few for the eye": (("schedule=linear", "schedule.levels=50"), ["is visible"]),
}


@pytest.mark.parametrize(("words", "warnings"), WARNINGS.values(), ids=WARNINGS)
def test_warnings(words, warnings, tmp_path):
    done, told = explained(tmp_path, *words)
    assert len(told["warnings"]) == len(warnings)
    for line, part in zip(told["warnings"], warnings, strict=True):
        assert part in line
    assert done.out.count("warning:") == len(warnings)


def test_first_ladders_gaps_have_a_remedy(tmp_path):
    """As many levels as it asks for do overlap."""
    _, told = explained(tmp_path, "model=ncsn", "schedule.levels=34")
    assert told["overlap"][0] == pytest.approx(0.9, abs=0.1)
    assert not any("overlap" in line for line in told["warnings"])


REFUSED = {
    "short": (
        ("schedule=linear", "schedule.levels=200", "schedule.rescale=false"),
        "rescale=true",
    ),
    "diverging": (("model=ncsnv2", "sampler.epsilon=3e-4"), "0.0002"),
    "unread": (("model=ncsnv2", "schedule=ncsnv2", "dataset=lsun"), "lsun is not there"),
    "wrong setting": (("dataset=mnist", "dataset.flip=maybe"), "dataset.flip=maybe"),
    "key": (("model.lables=false",), "did you mean model.labels"),
}


@pytest.mark.parametrize(("words", "answer"), REFUSED.values(), ids=REFUSED)
def test_refusals(words, answer, tmp_path):
    done = here(tmp_path, "explain", *words)
    assert done.status == 2
    assert answer in done.line()


def test_cost_is_projected(tmp_path):
    done, told = explained(tmp_path, "cost=true", "num_samples=100")
    cost = told["cost"]
    assert cost["batch_size"] == told["config"]["trainer"]["batch_size"]
    assert 0 < cost["evaluation"] < cost["step"] < 1000
    lines = {line[:20].strip(): line[20:] for line in done.out.splitlines() if line[:2] == "  "}
    assert "100 images" in done.out
    assert f"{cost['max_steps']:,} steps" in lines["training"]


def test_it_leaves_no_run_behind(tmp_path):
    """Only the explanation: nothing that `resume=auto` or `checkpoint=latest` could take."""
    done, _ = explained(tmp_path)
    written = {path.name for path in (tmp_path / done.folder).iterdir() if path.is_file()}
    assert {"explain.json", "explain.png"} <= written
    assert not list(tmp_path.glob("runs/*/*/checkpoints"))
