"""One plan and one identity of a way of sampling, and the sampler that a checkpoint names."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from running import TINY, contents, here, tree, worked

from diffgen.commands.explain.own_sampler import own_sampler
from diffgen.commands.sampling_job import SamplingJob
from diffgen.commands.train import Run
from diffgen.commands.train_callbacks import Watched
from diffgen.config.recipe import DenoiserRecipe
from diffgen.config.schema import Identity, Sampling
from diffgen.evaluation.rows import blocks, varying
from diffgen.runs.cell import Cell
from diffgen.runs.checkpoint_format import seal
from diffgen.runtime.devices import fabric_of
from diffgen.sampling.request import Request, labels_of, request_of, tuned_key
from diffgen.training.ema import Ema

pytestmark = pytest.mark.usefixtures("cache")

BASE = ("sampler=ddim", "steps=2", "guidance.weight=1", "num_samples=2", "metrics=[]")
# Every key that tells ways of sampling apart: the words that change it, the table's columns.
KEYS = [key for key, field in Sampling.model_fields.items() if Identity in field.metadata]
CHANGES: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "ema": (("ema=raw",), {"ema"}),
    "sampler": (("sampler.eta=0.5",), {"settings"}),
    "guidance": (("guidance.weight=2",), {"weight"}),
    "steps": (("steps=3",), {"steps"}),
    "spacing": (("spacing=linspace",), {"spacing"}),
    "start": (("start=shell",), {"start"}),
    "clip": (("clip=none",), {"clip"}),
    "precision": (("precision=bf16-mixed",), {"numeric_precision"}),
    "labels": (("labels=3",), {"labels"}),
}
# Tuned times start at the prior, are followed without fresh noise and are spaced by themselves.
TUNED: dict[str, tuple[str, ...]] = {
    "ema": ("ema=raw",),
    "sampler": ("sampler=heun",),
    "guidance": ("guidance.weight=2",),
    "steps": ("steps=3",),
    "clip": ("clip=none",),
}


def request(run: Path, *words: str) -> Request:
    return request_of(tree("sample", f"checkpoint={run}", *words))


def job(run: Path, *words: str) -> SamplingJob:
    settings = tree("sample", f"checkpoint={run}", "accelerator=cpu", *words)
    return SamplingJob(settings, fabric_of(settings.plain))


def folder_of(made: SamplingJob) -> Path:
    run, runs = made.request.checkpoint.run, Path(made.settings.runs)
    return Cell.of(run, made.drawn_key, runs).folder


def test_every_key_that_tells_ways_apart_is_held_here():
    assert set(CHANGES) == set(KEYS)


def test_classes_may_be_called_like_ways_to_choose_them():
    assert labels_of("balanced", ("cat", "dog")) is None
    assert labels_of("balanced", ("cat", "balanced")) == (1,)


@pytest.mark.parametrize("key", KEYS)
def test_cells_and_tables_tell_two_values_of_a_key_apart(key, ddpm):
    words, columns = CHANGES[key]
    plain, changed = job(ddpm, *BASE), job(ddpm, *BASE, *words)
    assert folder_of(plain) != folder_of(changed)
    scores = {"n": 2, "features": "f", "features_hash": "0", "reference": "r", "nfe": 1}
    rows = [{**each.columns(), **scores, "reference_hash": "1"} for each in (plain, changed)]
    (block,) = blocks(rows)
    assert set(varying(block.rows, block.identity)) == columns


@pytest.mark.parametrize(("key", "words"), TUNED.items(), ids=TUNED)
def test_tuned_times_tell_two_values_of_a_key_apart(key, words, ddpm):
    assert tuned_key(request(ddpm, *BASE)) != tuned_key(request(ddpm, *BASE, *words))


@pytest.mark.parametrize("key", sorted(set(CHANGES) - set(TUNED)))
def test_tuned_times_serve_all_values_of_other_keys(key, ddpm):
    words, _ = CHANGES[key]
    assert tuned_key(request(ddpm, *BASE)) == tuned_key(request(ddpm, *BASE, *words))


@pytest.mark.parametrize("key", ["guidance.weight", "sampler.eta"])
def test_a_number_is_one_cell_however_it_is_typed(key, ddpm):
    whole, decimal = (job(ddpm, *BASE, f"{key}={number}") for number in ("1", "1.0"))
    assert folder_of(whole) == folder_of(decimal)
    assert whole.request.identity() == decimal.request.identity()


def test_what_only_says_where_and_how_fast_tells_no_ways_apart(ddpm):
    words = ("batch_size=1", "runs=elsewhere", "cache=elsewhere", "logger=none")
    assert folder_of(job(ddpm, *BASE)) == folder_of(job(ddpm, *BASE, *words))


def test_a_sheet_of_guidance_holds_one_clip(ddpm, tmp_path):
    words = ("guidance.weight=0,1", "num_samples=20", "steps=2", "metrics=[]")
    told = ("-m", f"checkpoint={ddpm}", "clip=none,range", *words)
    folder = tmp_path / worked(here(tmp_path, "sample", *told)).folder
    sheets = {path.name for path in folder.glob("guidance*.png")}
    assert sheets == {"guidance_ddim_2_none.png", "guidance_ddim_2_range.png"}
    found = []
    for name in sorted(sheets):
        with Image.open(folder / name) as image:
            found.append(np.asarray(image))
    assert found[0].shape == found[1].shape
    assert found[0].shape[0] == pytest.approx(5 * found[0].shape[1], rel=0.1)  # 10 rows, 2 columns
    assert not np.array_equal(*found)


@pytest.mark.parametrize("sampler", ["ddim", "heun", "ddpm"])
def test_previews_explain_and_sample_give_one_plan(sampler, ddpm):
    """Of the same sampler on the same model."""
    words = (f"sampler={sampler}", "steps=4")
    asked = request(ddpm, *words)
    found = asked.plan
    settings = tree("train", *TINY, "preview.every=1", f"sampler={sampler}", "sampler.steps=4")
    settings = settings.replaced(
        preview={**settings.plain["preview"], "sampler": settings.plain["sampler"]}
    )
    recipe = settings.recipe
    assert isinstance(recipe, DenoiserRecipe)
    own = own_sampler(settings.sampler, recipe, asked.schedule)
    assert own.times == found.times.tolist()
    images = settings.dataset.build().split("train")
    run = Run(settings, Path())
    watched = Watched(settings, Path(), run.module(images), images, run.classes(images))
    (callback,) = watched.previews(Ema(settings.ema), lambda: False)
    plan: Any = callback.images.plan
    assert torch.equal(plan.times, found.times)
    assert asdict(plan.sampler) == asdict(found.sampler)
    for each in ("spacing", "start_name", "clip", "steps"):
        assert getattr(plan, each) == getattr(found, each)


LANGEVIN = ("sampler=langevin", "sampler.epsilon=1e-5", "sampler.inner=2")


@pytest.fixture(scope="module")
def stated(tmp_path_factory, cache) -> Path:
    """The folder of a run whose recipe states NCSNv2's sampler."""
    folder = tmp_path_factory.mktemp("stated")
    ladder = ("schedule=geometric", "schedule.sigma_max=5", "schedule.levels=6")
    short = ("trainer.max_steps=2", *LANGEVIN, *ladder)
    return folder / worked(here(folder, "train", "model=ncsnv2", *TINY, *short)).folder


def pixels(folder: Path, run: Path, *words: str) -> np.ndarray:
    told = (f"checkpoint={run}", "accelerator=cpu", "metrics=[]", "num_samples=3", *words)
    done = worked(here(folder, "sample", *told))
    with np.load(folder / done.folder / "samples.npz") as found:
        return found["arr_0"]


def test_own_is_the_sampler_that_the_recipe_states(stated, tmp_path):
    own = pixels(tmp_path, stated, "sampler=own")
    shutil.rmtree(stated / "cells")
    typed = pixels(tmp_path, stated, *LANGEVIN)
    assert np.array_equal(own, typed)
    other = pixels(tmp_path, stated, *LANGEVIN, "sampler.inner=5")
    assert not np.array_equal(own, other)
    asked = request(stated, "sampler=own")
    assert asked.identity()["sampler"] == "langevin"
    assert asked.plan.sampler.epsilon == 1e-5
    assert asked.plan.steps == 6


def test_steps_on_the_command_line_win_over_the_recipes(stated):
    assert request(stated, "sampler=own", "steps=3").plan.steps == 3
    assert request(stated, "sampler=own", "sampler.steps=3").plan.steps == 3


def test_own_and_the_same_by_name_are_one_cell(stated):
    assert folder_of(job(stated, "sampler=own")) == folder_of(job(stated, *LANGEVIN))


def test_own_has_no_settings_beside_the_steps(stated, tmp_path):
    done = here(tmp_path, "sample", f"checkpoint={stated}", "sampler=own", "+sampler.epsilon=1")
    assert done.status == 2
    assert "sampler.epsilon" in done.line()


def test_a_checkpoint_that_names_no_sampler_is_refused_in_one_line(ddpm, tmp_path):
    data = contents(ddpm / "checkpoints" / "last.ckpt")
    data["diffgen"]["recipe"] = {
        key: value for key, value in data["diffgen"]["recipe"].items() if key != "sampler"
    }
    del data["diffgen"]["hash"]
    seal(data)
    torch.save(data, tmp_path / "imported.ckpt")
    told = f"checkpoint={tmp_path / 'imported.ckpt'}"
    done = here(tmp_path, "sample", told, "sampler=own")
    assert done.status == 2
    assert done.line().startswith("sampler=own: this checkpoint's recipe names no sampler; take")


def test_explain_prints_the_command_that_runs_it(tmp_path):
    done = worked(here(tmp_path, "explain", "model=ncsnv2", "dataset=digits", "cost=false"))
    assert "diffgen sample sampler=own" in done.out
    told = " ".join(done.out.split())
    assert "diffgen sample sampler=langevin sampler." in told
