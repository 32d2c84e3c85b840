"""Images for other programs: files that hold a cell's bytes, at a place that nothing else uses."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import here, worked

import diffgen.runs.plain_images
from diffgen.dataset.images import in_memory
from diffgen.errors import UsageError
from diffgen.runs.cell import Cell
from diffgen.runs.plain_images import PngFolder, plain_images
from diffgen.sampling.foreign import fitting
from diffgen.task.generate import Generate

FIGURES = ("fid", "precision", "fid_per_class")
SCORED = ("num_samples=40", "n=40", "features=random", f"metrics=[{','.join(FIGURES)}]")


@pytest.fixture(scope="module")
def drawn(ddpm, tmp_path_factory):
    """A folder with the images of one cell as PNGs and as an .npz, and the cell's row."""
    folder = tmp_path_factory.mktemp("plain")
    words = ("sample", f"checkpoint={ddpm}", "steps=2", "accelerator=cpu", *SCORED)
    for form in ("png", "npz"):
        done = worked(here(folder, *words, f"out=images_{form}", f"format={form}"))
    (cell, _) = json.loads((folder / done.folder / "cells.json").read_text())["cells"]
    return folder, Cell((folder / done.folder / cell).resolve()), words


def images(folder):
    paths = sorted(folder.glob("*.png"))
    assert [path.name for path in paths] == [f"{k:06}.png" for k in range(len(paths))]
    return np.stack([np.array(Image.open(path)) for path in paths])


def test_files_hold_the_bytes_and_labels_of_the_cell(drawn):
    folder, cell, _ = drawn
    pixels, labels = cell.images()
    with np.load(folder / "images_npz.npz", allow_pickle=False) as found:
        assert found["arr_0"].shape == (len(pixels), 8, 8, 3)  # as evaluators read grey, too
        assert (found["arr_0"] == pixels[:, 0, ..., None].numpy()).all()
        assert found["arr_1"].tolist() == labels.tolist()
    assert (images(folder / "images_png") == pixels[:, 0].numpy()).all()
    listing = json.loads((folder / "images_png/dataset.json").read_text())["labels"]
    assert listing == [[f"{k:06}.png", label] for k, label in enumerate(labels.tolist())]


@pytest.mark.parametrize("name", ["images_png", "images_npz.npz"])
def test_evaluating_the_files_gives_the_figures_of_the_cell(drawn, name):
    folder, cell, _ = drawn
    words = ("features=random", f"metrics=[{','.join(FIGURES)}]")
    done = worked(here(folder, "evaluate", name, "--against", "digits", *words))
    row = json.loads((folder / done.folder / "0/result.json").read_text())
    for figure in FIGURES:
        assert row[figure] == pytest.approx(cell.row[figure], rel=1e-9)


def test_a_folder_that_was_cut_off_is_finished_and_one_that_is_done_is_left(drawn, tmp_path):
    _, cell, _ = drawn
    out = PngFolder(tmp_path / "out")
    out.write(cell, "images", list("0123456789"))
    whole = images(out.path)
    stamp = (out.path / "000001.png").stat().st_mtime_ns
    (out.path / "000000.png").unlink()
    out.write(cell, "images", list("0123456789"))
    assert (out.path / "000001.png").stat().st_mtime_ns == stamp
    mark = json.loads((out.path / "diffgen.json").read_text())
    (out.path / "diffgen.json").write_text(json.dumps({**mark, "done": False}))
    (out.path / "000002.png").write_bytes(b"")
    out.write(cell, "images", list("0123456789"))
    assert (images(out.path) == whole).all()


def foreign(out):
    out.mkdir()
    (out / "cat.png").write_text("a cat")


REFUSED = {
    "other files": (foreign, "png", "out=out holds other files, as cat.png"),
    "one more": (lambda out: None, "png", "out=images_png holds other files, as 999999.png"),
    "other settings": (lambda out: None, "png", "out=images_png holds the images of other"),
    "a file": (lambda out: out.write_text("mine"), "png", "out=out is a file"),
    "another file": (lambda out: out.write_text("mine"), "npz", "out=out.npz is something else"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nothing_else_is_written_over_and_nothing_is_drawn_for_it(drawn, case, monkeypatch):
    folder, _, words = drawn
    make, form, line = REFUSED[case]
    name = "images_png" if "images_png" in line else "out"
    place = folder / (f"{name}.npz" if form == "npz" else name)
    make(place)
    more = folder / "images_png/999999.png"
    if case == "one more":
        more.write_text("another")
    before = {path: path.read_bytes() for path in folder.glob(f"{name}*/*") if path.is_file()}
    monkeypatch.setattr(Generate, "__call__", lambda *_: pytest.fail("it draws"))
    done = here(folder, *words, "seed=7", f"out={name}", f"format={form}")
    assert (done.status, done.err.count("\n")) == (2, 1), done.err
    assert line in done.err
    assert all(path.read_bytes() == held for path, held in before.items())
    more.unlink(missing_ok=True)
    if name == "out":
        [path.unlink() for path in place.glob("*")] if place.is_dir() else place.unlink()
        place.rmdir() if place.is_dir() else None


@pytest.mark.parametrize("form", ["png", "npz"])
def test_a_place_that_cannot_be_made_is_told_before_a_job_starts(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    os.mkfifo("pipe.npz")
    wrong = {"": "out= names no place", "file/deep/out": f"{tmp_path}/file is a file"}
    wrong |= {"pipe.npz": "is a file, and" if form == "png" else "is something else"}
    for out, line in wrong.items():
        with pytest.raises(UsageError, match=line):
            plain_images(out, form).check()
    monkeypatch.setattr(diffgen.runs.plain_images, "can_write", lambda folder: folder != tmp_path)
    with pytest.raises(UsageError, match=f"{tmp_path} may only be read"):
        plain_images("new/out", form).check()
    assert {path.name for path in tmp_path.iterdir()} == {"file", "pipe.npz"}


def test_each_job_of_a_sweep_has_a_folder_called_by_what_differs(ddpm, tmp_path):
    words = ("accelerator=cpu", "num_samples=2", "metrics=[]", "out=a b", "seed=3")
    checkpoint = f"checkpoint={ddpm}"
    worked(here(tmp_path, "sample", "-m", checkpoint, "steps=1,2", *words))
    worked(here(tmp_path, "sample", "-m", checkpoint, "steps=1,3", *words))  # and the kept one
    assert sorted(path.name for path in (tmp_path / "a b").iterdir()) == [
        f"steps={steps}" for steps in (1, 2, 3)
    ]
    assert all(len(images(path)) == 2 for path in (tmp_path / "a b").iterdir())


def test_numbers_of_a_listing_are_numbers_of_the_classes():
    pixels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    real = in_memory(pixels, torch.arange(3), ("cat", "dog", "eel"), "real")
    made = in_memory(pixels, torch.tensor([0, 1, 0]), ("0", "2"), "made")
    assert fitting(made, real).labels.tolist() == [0, 2, 0]
