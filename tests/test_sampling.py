"""`diffgen sample` as a person runs it: images, cells, tables, sweeps, devices, refusals."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from running import TINY, ended, here, there, tree, worked

from diffgen.cli.config_files import config_dir
from diffgen.config.recipe import ModelSettings
from diffgen.errors import UsageError
from diffgen.evaluation.rows import ESSENTIAL
from diffgen.files import expanded
from diffgen.runs.cell import Cell
from diffgen.runs.result_file import collect
from diffgen.sampler.ddim import DDIM
from diffgen.sampler.unipc import UniPC
from diffgen.sampling import log_tables
from diffgen.sampling import publishing as publish
from diffgen.sampling.evaluator import Evaluator, evaluator_of, say_once
from diffgen.sampling.plan import plan_of
from diffgen.sampling.request import Request, request_of
from diffgen.schedule.geometric import Geometric
from diffgen.task.generate import Generate

pytestmark = pytest.mark.usefixtures("cache")

CPU = torch.device("cpu")
FEATURES = (
    *("features=classifier", "features.steps=30", "features.width=8", "features.dim=8"),
    "features.batch_size=64",
)
ONLY_IMAGES = ("metrics=[]", "steps=2")


def sample(folder: Path, run: Path, *words: str) -> Path:
    """The folder of what the command, run in this process, has made."""
    done = worked(here(folder, "sample", f"checkpoint={run}", "accelerator=cpu", *words))
    return folder / done.folder


def request(run: Path, *words: str) -> Request:
    return request_of(tree("sample", f"checkpoint={run}", *words))


def drawn(run: Path, batch_size: int, *words: str, count: int = 64) -> torch.Tensor:
    """The first images, made in batches of this size without any cell."""
    task, _ = request(run, f"num_samples={count}", *words).task(CPU)
    return torch.cat([task(part.tolist(), CPU) for part in torch.arange(count).split(batch_size)])


def judge_of(run: Path, cache: Path) -> Evaluator:
    made = tree("sample", f"checkpoint={run}", *FEATURES)
    return evaluator_of(request(run).checkpoint, made.features, str(cache), None, "cpu")


def arrays(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(folder / "samples.npz") as found:
        return found["arr_0"], found["arr_1"]


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "table.csv").read_text().splitlines()))


def cells(run: Path) -> dict[Path, int]:
    """Every file of every cell and when it was written."""
    return {path: path.stat().st_mtime_ns for path in run.glob("cells/*/*")}


def test_images_come_as_sheet_and_as_arrays_that_evaluators_read(ddpm, tmp_path):
    folder = sample(tmp_path, ddpm, *ONLY_IMAGES, "num_samples=23")
    pixels, labels = arrays(folder)
    assert pixels.shape == (23, 8, 8, 1)
    assert pixels.dtype == np.uint8
    assert pixels.min() < pixels.max()
    assert labels.tolist() == [k % 10 for k in range(23)]
    with Image.open(folder / "samples.png") as image:
        assert image.size[0] > image.size[1]  # a column for each class, as deep as the rarest
    assert not (folder / "table.csv").exists()


def test_without_metrics_nothing_is_said_of_tables(ddpm, tmp_path):
    words = (f"checkpoint={ddpm}", *ONLY_IMAGES, "num_samples=4", "seed=77")
    done = worked(here(tmp_path, "sample", *words))
    *_, picture, folder = done.out.splitlines()
    assert picture == f"{folder}/samples.png"
    assert done.err == ""


SWEEP = ("sampler=ddim,heun", "steps=2,3", "guidance.weight=0,1", "num_samples=40", *FEATURES)


@pytest.fixture(scope="module")
def sweep(ddpm, tmp_path_factory):
    """A sweep of eight cells, and the words it printed."""
    folder = tmp_path_factory.mktemp("sweep")
    done = worked(here(folder, "sample", "-m", f"checkpoint={ddpm}", *SWEEP))
    return SimpleNamespace(folder=folder / done.folder, done=done)


def test_a_sweep_ends_with_a_table_of_its_cells(sweep):
    floor, *found = rows(sweep.folder)
    assert floor["sampler"] == "real (test)"
    ways = [(r["sampler"], int(r["steps"]), float(r["weight"])) for r in found]
    expected = [(s, n, w) for s in ("ddim", "heun") for w in (0, 1) for n in (2, 3)]
    assert sorted(ways) == sorted(expected)
    evaluations = {"ddim": lambda n: n, "heun": {2: 2, 3: 5}.__getitem__}  # steep in 2
    for sampler, steps, weight in ways:
        row = found[ways.index((sampler, steps, weight))]
        assert float(row["nfe"]) == evaluations[sampler](steps) * (1 + (weight != 0))
        assert float(row["scale"]) == 1 + weight
    assert {row["n"] for row in [floor, *found]} == {"40"}
    assert len({row["features_hash"] for row in [floor, *found]}) == 1
    assert 0 < float(floor["fid"]) < min(float(row["fid"]) for row in found)


def test_a_sampler_that_chooses_its_steps_has_none_in_its_row(ddpm, tmp_path):
    way = ("sampler=rk45", *FIXED["rk45"], "guidance.weight=0,1", "num_samples=40", *FEATURES)
    folder = sample(tmp_path, ddpm, "-m", *way)
    found = rows(folder)[1:]
    assert [row["steps"] for row in found] == ["", ""]
    assert [row["spacing"] for row in found] == ["ends", "ends"]
    assert float(found[0]["nfe"]) < float(found[1]["nfe"])
    assert " steps " not in (folder / "table.md").read_text()
    assert (folder / "table.png").is_file()


@pytest.mark.parametrize("sampler", ["ddpm", "pc"])
def test_too_large_a_variance_is_told_once(sampler, ddpm, tmp_path):
    words = (f"checkpoint={ddpm}", f"sampler={sampler}", "sampler.variance=fixedlarge")
    done = worked(here(tmp_path, "sample", *words, *ONLY_IMAGES, "num_samples=6", "batch_size=2"))
    assert done.out.count("fixedlarge leaves noise in 2 steps") == 1


def test_every_row_tells_where_it_comes_from(sweep, ddpm):
    for row in rows(sweep.folder)[1:]:
        assert row["checkpoint"] == ddpm.name
        assert row["step"] == "40"
        assert row["ema"] == "average"
        assert row["seed"] == "0"
        assert row["guidance"] == "classifier_free"
        assert row["features"] == "classifier"
        assert json.loads(row["versions"])["torch"] == torch.__version__
        assert "digits" in row["reference"]
        assert row["reference_hash"]


def test_the_table_is_printed_and_written_alike(sweep):
    found = rows(sweep.folder)
    text = (sweep.folder / "table.md").read_text()
    for row in found:
        figure = f"{float(row['fid']):.4g}"
        assert figure in text
        assert figure in sweep.done.out
    assert sum(line.startswith("|") for line in text.splitlines()) == len(found) + 2
    with Image.open(sweep.folder / "table.png") as image:
        assert min(image.size) > 300
    pictures = [sweep.folder / str(job) / "samples.png" for job in range(8)]
    assert all(str(path.relative_to(path.parents[4])) in sweep.done.out for path in pictures)


def test_figures_are_those_of_the_images_in_the_cell(sweep, ddpm, cache):
    judge = judge_of(ddpm, cache)
    by_figure = {row["fid"]: row for row in rows(sweep.folder)}
    for job in (0, 7):
        pixels, labels = arrays(sweep.folder / str(job))
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        again = judge.row(images, torch.from_numpy(labels), ["fid", "accuracy"])
        nearest = min(by_figure, key=lambda figure: abs(float(figure) - again["fid"]))
        assert float(nearest) == pytest.approx(again["fid"], rel=1e-6)
        assert float(by_figure[nearest]["accuracy"]) == pytest.approx(again["accuracy"])


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Fréchet's, by eigenvalues of the product of covariances."""
    product = torch.linalg.eigvals(torch.cov(a.T) @ torch.cov(b.T)).real.clamp(min=0)
    traces = torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * product.sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + traces)


def test_what_guidance_does_is_measured_class_by_class(ddpm, cache, tmp_path):
    names = "metrics=[fid_per_class,precision,recall,saturation]"
    folder = sample(tmp_path, ddpm, *FEATURES, names, "num_samples=300", "steps=2")
    judge = judge_of(ddpm, cache)
    pixels, labels = arrays(folder)
    mine = judge.extractor(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()).features
    theirs = judge.reference
    assert theirs.features.shape == (1438, 8)
    told = json.loads(rows(folder)[1]["fid_per_class"])
    for k in range(10):
        wanted = distance(mine[torch.from_numpy(labels) == k], theirs.features[theirs.labels == k])
        assert told[str(k)] == pytest.approx(wanted, rel=1e-4)
    worst = max(told, key=told.__getitem__)
    assert f"| {worst}: {told[worst]:.4g} |" in (folder / "table.md").read_text()
    found = {name: float(rows(folder)[1][name]) for name in ("precision", "recall", "saturation")}
    assert found["saturation"] == pytest.approx(((pixels == 0) | (pixels == 255)).mean())
    assert all(0 <= share <= 1 for share in found.values())


def test_a_repeated_sweep_computes_nothing_again(sweep, ddpm, tmp_path, monkeypatch):
    monkeypatch.setattr(Generate, "__call__", lambda *_: 1 / 0)
    before = cells(ddpm)
    # neither another batch size nor another place makes another cell
    words = (f"checkpoint={ddpm}", *SWEEP, "batch_size=7", f"runs={tmp_path}/elsewhere")
    done = worked(here(tmp_path, "sample", "-m", *words))
    assert cells(ddpm) == before
    assert rows(done.folder) == rows(sweep.folder)


def test_a_repeated_sweep_does_what_is_missing(sweep, ddpm, tmp_path):
    before = cells(ddpm)
    (lost,) = {p.parent for p in before if p.name == "samples.npz"} & {
        publish.cells_of(sweep.folder / "3")[0]
    }
    row = json.loads((lost / "result.json").read_text())
    (lost / "samples.npz").write_bytes(b"PK torn")
    (lost / "result.json").unlink()
    worked(here(tmp_path, "sample", "-m", f"checkpoint={ddpm}", *SWEEP))
    after = cells(ddpm)
    assert {path.parent for path in after if after[path] != before[path]} == {lost}
    again = json.loads((lost / "result.json").read_text())
    assert again["fid"] == pytest.approx(row["fid"], rel=1e-6)


def test_another_version_of_the_program_draws_its_own(ddpm, tmp_path, monkeypatch):
    words = ("sampler=ddim", "steps=2", "num_samples=3", *ONLY_IMAGES)
    first = sample(tmp_path, ddpm, *words)
    monkeypatch.setattr("diffgen.commands.sampling_job.__version__", "99.0")
    second = sample(tmp_path, ddpm, *words)
    assert (first / "cells.json").read_text() != (second / "cells.json").read_text()


def test_another_metric_is_measured_on_the_images_that_are_there(
    sweep, ddpm, tmp_path, monkeypatch
):
    monkeypatch.setattr(Generate, "__call__", lambda *_: 1 / 0)
    words = ("sampler=ddim", "steps=2", "num_samples=40", "guidance.weight=0.0", *FEATURES)
    folder = sample(tmp_path, ddpm, *words, "metrics=[fid,accuracy,saturation]")
    _, row = rows(folder)
    assert 0 <= float(row["saturation"]) <= 1


@pytest.mark.parametrize(
    ("words", "n"),
    [(("num_samples=400",), 359), (("num_samples=30", "n=20"), 20)],
    ids=["all held out", "asked for"],
)
def test_all_rows_count_one_n(words, n, ddpm, tmp_path):
    folder = sample(tmp_path, ddpm, *words, *FEATURES, "steps=1")
    assert [row["n"] for row in rows(folder)] == [str(n)] * 2


def test_more_images_than_are_held_out_have_no_floor(ddpm, tmp_path):
    words = (f"checkpoint={ddpm}", "num_samples=400", *FEATURES, "steps=1")
    for n, told in (("n=400", "n=400: no row 'real (test)'"), ("n=null", "rows count 359 of 400")):
        say_once.cache_clear()
        done = worked(here(tmp_path, "sample", *words, n))
        assert told in done.out
        floor = [] if n == "n=400" else ["real (test)"]
        assert [row["sampler"] for row in rows(tmp_path / done.folder)] == [*floor, "ddim"]
    done = here(tmp_path, "sample", f"checkpoint={ddpm}", "num_samples=30", "n=40", *FEATURES)
    assert done.status == 2
    assert done.line() == "n=40 needs as many images: num_samples=30 is less"


NOISY = ("sampler=ddpm", "steps=3", "guidance.weight=1")


def test_images_do_not_depend_on_the_batch_but_for_last_bits(ddpm):
    whole, single, odd = (drawn(ddpm, size, *NOISY) for size in (64, 1, 7))
    for other in (single, odd):
        difference = (whole.int() - other.int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).double().mean() <= 1e-3


def test_deterministic_images_have_the_same_bytes_in_any_batch(ddpm):
    whole, single, odd = (drawn(ddpm, n, *NOISY, "deterministic=true") for n in (64, 1, 7))
    assert torch.equal(whole, single)
    assert torch.equal(whole, odd)


def test_image_i_depends_on_seed_and_i_alone(ddpm):
    few, many = (drawn(ddpm, 64, *NOISY, "deterministic=true", count=n) for n in (5, 9))
    assert torch.equal(few, many[:5])
    other = drawn(ddpm, 64, *NOISY, "seed=1", count=9)
    assert not any(torch.equal(a, b) for a, b in zip(many, other, strict=True))
    assert len(many.flatten(1).unique(dim=0)) == 9


SAMPLERS = sorted(path.stem for path in Path(config_dir(), "sampler").glob("*.yaml"))
FIXED = {"rk45": ("sampler.tolerance=0.5",)}  # these choose their steps


@pytest.mark.parametrize("model", ["ddpm", "ncsnv2", "flow", "jit"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_runs_on_every_model(sampler, model, ask):
    words = (f"sampler={sampler}", *FIXED.get(sampler, ("steps=3",)), "deterministic=true")
    if model in ("flow", "jit") and sampler.startswith(
        "langevin_"
    ):  # for NCSN's ten times larger sigma
        words += ("sampler.epsilon=auto",)
    task, counters = ask(model, *words).task(CPU)
    images = task([0, 1, 2], CPU)
    assert images.shape == (3, 1, 8, 8)
    assert len(images.flatten(1).unique(dim=0)) == 3
    assert counters[0].rows >= 9
    assert torch.equal(task([1], CPU), images[1:2])


MULTISTEP = ("heun", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "unipc", "deis")


@pytest.mark.parametrize("sampler", MULTISTEP)
def test_more_steps_than_levels_go_between_them(sampler, ncsnv2):
    """Of ten levels: even in log-SNR, which needs none; at ten steps still the levels."""
    at, beyond = (request(ncsnv2, f"sampler={sampler}", f"steps={n}") for n in (10, 11))
    at, beyond, schedule = at.plan, beyond.plan, at.schedule
    assert (at.spacing, beyond.spacing) == ("trailing", "log_snr")
    assert (10 * at.times).tolist() == pytest.approx(list(range(10, -1, -1)))
    assert schedule.log_snr(beyond.times[:-1]).diff().std() < 1e-9
    assert len(beyond.times) == 12


def test_a_model_that_knows_its_levels_alone_is_asked_nothing_between_them():
    model, ladder = ModelSettings("ncsn", noise_input="index"), Geometric(sigma_max=1.0)
    with pytest.raises(UsageError, match="more than the 10 levels"):
        plan_of(UniPC(), 11, model, ladder)
    between = replace(model, noise_input="level")
    assert plan_of(UniPC(), 10, model, ladder).spacing == "trailing"
    assert plan_of(UniPC(), 11, between, ladder).spacing == "log_snr"
    with pytest.raises(UsageError, match="more than the 10 levels"):
        plan_of(DDIM(), 11, between, ladder)


@pytest.fixture
def ask(ddpm, ncsnv2, flow, jit):
    runs = {"ddpm": ddpm, "ncsnv2": ncsnv2, "flow": flow, "jit": jit}
    return lambda model, *words: request(runs[model], *words)


def test_the_weights_are_chosen_by_name(ddpm):
    default, average, quick, raw = (
        drawn(ddpm, 4, "steps=2", *words, count=4)
        for words in ((), ("ema=average",), ("ema=quick",), ("ema=raw",))
    )
    assert torch.equal(default, average)
    assert not torch.equal(average, quick)
    assert not torch.equal(average, raw)


@pytest.mark.parametrize(
    ("word", "labels"),
    [
        ("labels=7", [7] * 5),
        ("labels=[3,5]", [3, 5] * 2 + [3]),
        ("labels=['3',5]", [3, 5] * 2 + [3]),
    ],
    ids=str,
)
def test_labels_are_asked_for_by_name(word, labels, ddpm, tmp_path):
    folder = sample(tmp_path, ddpm, *ONLY_IMAGES, "num_samples=5", word)
    assert arrays(folder)[1].tolist() == labels
    with Image.open(folder / "samples.png") as image:
        assert min(image.size) > 100  # classes without an image do not empty the sheet


def test_a_model_without_labels_gives_images_without(unlabelled, tmp_path):
    folder = sample(tmp_path, unlabelled, *ONLY_IMAGES, "num_samples=3")
    with np.load(folder / "samples.npz") as found:
        assert found.files == ["arr_0", "seal"]


REFUSALS = {
    ("sampler=ddmi",): "no sampler 'ddmi'; did you mean",
    ("sampler.stpes=5",): "no key 'sampler.stpes'; did you mean",
    ("+sampler.stpes=5",): "no sampler.stpes for sampler=ddim",
    ("steps=0",): "steps=0: ",
    ("labels=[]",): "labels=[]: ",
    ("steps=2000",): "steps=2000 is more than the 1000 levels",
    ("guidance.weight=abc",): "guidance.weight=abc: ",
    ("guidance.weight=nan",): "guidance.weight=nan must be a number from -1e+06 to 1e+06",
    ("guidance.weight=1e308",): "guidance.weight=1e+308 must be a number from -1e+06 to 1e+06",
    ("num_samples=1.5",): "num_samples=1.5: Input should be a valid integer",
    ("num_samples='16'",): "num_samples=16: Input should be a valid integer",
    ("seed=${hydra:job.nmu}",): "no hydra.job.nmu; there is ",
    ("runs=${hydra:job.nam}",): "no hydra.job.nam; did you mean name?",
    ("sampler=[ddim]",): "sampler= takes one choice; ",
    ("hydra.run.dir=/dev/null",): "cannot write hydra.run.dir=/dev/null (File exists); set hydra.",
    ("runs=/dev/null",): "cannot write runs=/dev/null (Not a directory); set runs=FOLDER",
    ("ema=foo",): "no weights ema=foo",
    ("spacing=foo",): "no spacing=foo",
    ("start=foo",): "no start=foo",
    ("clip=foo",): "clip=foo: ",
    ("accelerator=abacus",): "no accelerator=abacus with devices=1 here (You selected an invalid",
    ("accelerator=cpu", "devices=-1"): "no accelerator=cpu with devices=-1 here (`devices` sel",
    ("accelerator=cpu", "devices=999"): "devices=999 is more processes than the ",
    ("accelerator=cpu", "precision=16-mixed"): "precision=16-mixed needs a GPU; set precision=bf1",
    ("metrics=[acuracy]",): "no metric acuracy; did you mean accuracy?",
    ("labels=12",): "no class 12: there is 0, 1",
    ("labels=cat",): "no class cat: there is 0, 1",
    ("sampler=rk45", "precision=bf16-mixed"): "sampler.tolerance=1e-05 is finer than",
    ("sampler=rk45", "steps=5"): "steps=5: this sampler chooses its own",
    ("sampler=rk45", "steps=10", "spacing=trailing"): "spacing=trailing: this sampler chooses its",
    ("sampler=rk45", "spacing=linspace"): "spacing=linspace: this sampler chooses its own steps; "
    "leave it at spacing=auto",
    ("sampler=ddim", "spacing=ends"): "spacing=ends: this sampler takes the steps it is given; "
    "take spacing=auto",
    ("model=ddpm",): "diffgen sample takes no model=",
    ("guidance.interval=[3,1]", "guidance.weight=1"): "guidance.interval=[3,1] must be",
    ("checkpoint=/nowhere",): "no checkpoint at /nowhere",
    ("guidance=autoguidance", "guidance.checkpoint=/nowhere"): "no checkpoint at /nowhere",
    ("features.stpes=3",): "no ",
    ("features=inception", "features.weights=nowhere"): "features.weights: no file nowhere",
}


@pytest.mark.parametrize(("words", "answer"), REFUSALS.items(), ids=lambda v: str(v))
def test_a_wrong_setting_gets_one_line(words, answer, ddpm, tmp_path, monkeypatch):
    monkeypatch.setattr(Generate, "__call__", lambda *_: 1 / 0)
    monkeypatch.setattr(
        "diffgen.sampling.evaluator.cached", lambda *_: 1 / 0
    )  # no work before the refusal
    before = cells(ddpm)
    done = here(tmp_path, "sample", f"checkpoint={ddpm}", "num_samples=4", *words)
    assert done.status == 2
    assert done.line().startswith(answer)
    assert cells(ddpm) == before


UNLABELLED = {
    "guidance.weight=2": "guidance.weight=2 needs labels and this checkpoint was trained without",
    "labels=3": "this checkpoint was trained without labels",
}


@pytest.mark.parametrize(("word", "answer"), UNLABELLED.items(), ids=UNLABELLED)
def test_labels_are_refused_where_none_were_learned(word, answer, unlabelled, tmp_path):
    done = here(tmp_path, "sample", f"checkpoint={unlabelled}", word)
    assert done.status == 2
    assert done.line().startswith(answer)


def test_a_root_of_a_data_set_without_one_is_refused(ddpm, tmp_path):
    line = here(tmp_path, "sample", f"checkpoint={ddpm}", "root=x", "metrics=[fid]").err
    assert line == "diffgen: root=x: the images of digits are read from no folder; leave it out\n"


def test_a_checkpoint_is_explained_as_it_is(ddpm, tmp_path):
    line = here(tmp_path, "explain", f"checkpoint={ddpm}", "model=edm").err
    assert line == (
        "diffgen: a checkpoint is told of as it is: leave out checkpoint=, or model=edm\n"
    )


def test_langevin_that_must_diverge_is_refused(ddpm, tmp_path):
    words = ("sampler=langevin", "sampler.epsilon=9", "steps=2", "metrics=[]", "num_samples=2")
    done = here(tmp_path, "sample", f"checkpoint={ddpm}", *words)
    assert done.status == 2
    assert done.line().startswith("sampler.epsilon=9 makes Langevin dynamics diverge")


def test_latest_needs_a_training(tmp_path):
    done = here(tmp_path, "sample")
    assert done.status == 2
    assert done.line() == "no checkpoint under runs/: train one with `diffgen train` first"


def test_inception_without_a_network_says_which_file_goes_where(ddpm, tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    words = ("features=inception", "num_samples=4", "steps=1")
    done = here(tmp_path, "sample", f"checkpoint={ddpm}", *words)
    assert done.status == 2
    assert "weights-inception-2015-12-05-6726825d.pth" in done.line()
    assert str(tmp_path / "torch") in done.line()
    assert "features.weights=PATH" in done.line()


def test_a_sweep_with_a_wrong_value_starts_no_job(ddpm, tmp_path):
    before = cells(ddpm)
    words = ("seed=5", "num_samples=2", "ema=average,foo", *ONLY_IMAGES)
    done = here(tmp_path, "sample", "-m", f"checkpoint={ddpm}", *words)
    assert done.status == 2
    assert done.line().startswith("no weights ema=foo")
    assert cells(ddpm) == before


def test_weights_of_one_branch_cost_one_and_are_its_bits(ddpm, tmp_path):
    words = ("steps=3", "num_samples=20", "metrics=[]", f"checkpoint={ddpm}", "accelerator=cpu")
    weights = "guidance.weight=-1,0,1"
    done = worked(here(tmp_path, "sample", "-m", *words, weights))
    jobs = [tmp_path / done.folder / str(job) for job in range(3)]
    told = [publish.cells_of(job)[0] for job in jobs]
    found = [Cell(Path(cell)).row for cell in told]
    assert [(row["weight"], row["nfe"]) for row in found if row] == [(-1, 3), (0, 3), (1, 6)]
    free, conditional, _ = (torch.from_numpy(arrays(job)[0]).permute(0, 3, 1, 2) for job in jobs)
    assert torch.equal(conditional, drawn(ddpm, 20, "steps=3", "guidance=none", count=20))
    task, _ = request(ddpm, "steps=3", "guidance=none").task(CPU)
    noise = task.noise(range(20))
    x = task.begin(task.blank(range(20), CPU), noise)
    x = task.sampler(task.denoiser, x, task.times, None, noise)
    assert torch.equal(free, task.pixel_range.to_uint8(x))
    assert not torch.equal(free, conditional)


CONDITIONAL = {
    "refinenet": ("model=ncsnv2", "network=refinenet", "network.width=8"),
    "dilated": ("network=dilated", "network.width=8", "network.groups=4"),
    "ncsn_refinenet": ("model=ncsn", "network.width=8", "schedule.levels=10"),
}


@pytest.mark.parametrize("words", CONDITIONAL.values(), ids=CONDITIONAL)
def test_every_network_learns_labels_that_guidance_leans_on(words, tmp_path):
    short = ("trainer.max_steps=3", "trainer.batch_size=8", "preview.every=0", "optimizer.lr=0.1")
    done = worked(here(tmp_path, "train", *words, *short, "trainer.accelerator=cpu"))
    run = tmp_path / done.folder
    told = ("sampler=ddim", "steps=2", "spacing=linspace", "seed=1", "clip=none", "ema=raw")
    tasks = [
        request(run, *told, f"guidance.weight={w}", f"labels={label}", "num_samples=2").task(CPU)
        for w, label in ((-1, 3), (0, 3), (0, 5), (2, 3))
    ]
    x = [task.draw([0, 1], CPU) for task, _ in tasks]
    assert [sum(counter.rows for counter in counters) for _, counters in tasks] == [4, 4, 4, 8]
    assert all(state.isfinite().all() for state in x)
    assert not torch.equal(x[1], x[2])
    assert not torch.equal(x[0], x[1])
    assert not torch.equal(x[3], x[1])


@pytest.mark.parametrize("guidance", ["classifier_free", "autoguidance"])
@pytest.mark.parametrize("model", ["flow", "jit"])
def test_guidance_leads_a_flow_too(model, guidance, ask, request):
    words = ("sampler=heun", "steps=3", "num_samples=4", "labels=3", f"guidance={guidance}")
    if guidance == "autoguidance":
        weak = request.getfixturevalue({"flow": "jit", "jit": "flow"}[model])
        words += (f"guidance.checkpoint={weak}/checkpoints/last.ckpt",)
    tasks = [ask(model, *words, f"guidance.weight={weight}").task(CPU)[0] for weight in (0, 3)]
    alone, led = (task.draw(range(4), CPU) for task in tasks)
    assert led.isfinite().all()
    assert (alone - led).abs().max() > 1e-4


def test_autoguidance_counts_both_models(ddpm, tmp_path):
    weak = ddpm / "checkpoints" / "last.ckpt"
    words = ("guidance=autoguidance", f"guidance.checkpoint={weak}", "guidance.weight=1")
    task, counters = request(ddpm, *words, "steps=2").task(CPU)
    task([0, 1], CPU)
    assert [counter.rows for counter in counters] == [4, 4]


@pytest.fixture
def shown(monkeypatch):
    """What a logger that shows tables and pictures was given."""
    shown = {}

    def log_image(key, images, caption=()):
        assert all(Path(path).is_file() for path in images)
        shown[key] = images

    logger = SimpleNamespace(
        log_image=log_image,
        log_table=lambda key, columns, data: shown.update({key: (columns, data)}),
        experiment=SimpleNamespace(
            finish=lambda: shown.update(finished=True), summary=SimpleNamespace(update=dict)
        ),
    )
    monkeypatch.setattr(log_tables, "logger_of", lambda *_: logger)
    return shown


def test_a_logger_that_shows_tables_gets_table_and_pictures(ddpm, tmp_path, shown):
    folder = sample(tmp_path, ddpm, "num_samples=10", "steps=1", *FEATURES)
    columns, data = shown["table"]
    assert [row[columns.index("sampler")] for row in data] == ["real (test)", "ddim"]
    assert [Path(path).name for path in shown["samples"]] == ["samples.png"]
    assert shown["figure"][0].endswith("table.png")
    assert shown["finished"]
    assert folder.is_dir()


def test_a_logger_gets_no_figure_where_rows_have_no_distance(ddpm, tmp_path, shown):
    sample(tmp_path, ddpm, "num_samples=10", "steps=1", "seed=5", "metrics=[accuracy]", *FEATURES)
    assert set(shown) == {"table", "samples", "finished"}


def test_results_are_named_and_the_logger_ended_also_where_it_fails(
    ddpm, tmp_path, shown, monkeypatch
):
    monkeypatch.setattr(log_tables.logger_of(), "log_image", lambda *_: 1 / 0)
    done = here(tmp_path, "sample", f"checkpoint={ddpm}", *ONLY_IMAGES, "num_samples=4")
    assert done.status == 1
    assert (tmp_path / done.folder / "samples.png").is_file()
    assert shown == {"finished": True}


@pytest.mark.parametrize("words", [(), ("-m", "seed=0,1")], ids=["alone", "sweep"])
def test_a_logger_that_cannot_start_is_told_before_any_image(words, ddpm, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def unknown(**_):
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "login", unknown)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(Generate, "__call__", lambda *_: 1 / 0)
    done = here(tmp_path, "sample", *words, f"checkpoint={ddpm}", *ONLY_IMAGES, "logger=wandb")
    assert done.status == 2
    assert done.line().startswith("wandb does not start (No API key configured.); set logger.off")


def test_a_torn_cell_is_no_cell(tmp_path):
    cell = Cell(tmp_path)
    for name, data in {"samples.npz": b"PK\x03\x04", "result.json": b"{\xff", "x": b""}.items():
        (tmp_path / name).write_bytes(data)
    assert cell.images() is None
    assert cell.row is None
    assert not cell.done([])
    (tmp_path / "samples.npz").write_bytes(b"")
    assert cell.images() is None


def changed_row(cell: Path) -> None:
    row = json.loads((cell / "result.json").read_text())
    (cell / "result.json").write_text(json.dumps({**row, "nfe": 1.0}))


def row_without_seal(cell: Path) -> None:
    row = json.loads((cell / "result.json").read_text())
    del row["seal"]
    (cell / "result.json").write_text(json.dumps(row))


def changed_image(cell: Path) -> None:
    with np.load(cell / "samples.npz") as file:
        arrays = {name: file[name].copy() for name in file.files}
    arrays["arr_0"][0, 0, 0] ^= 1
    np.savez(cell / "samples.npz", **arrays)


def images_without_seal(cell: Path) -> None:
    with np.load(cell / "samples.npz") as file:
        np.savez(cell / "samples.npz", file["arr_0"], file["arr_1"])


def pickled_images(cell: Path) -> None:
    np.savez(cell / "samples.npz", arr_0=np.array([object()], dtype=object))


def deflated_zeros(cell: Path) -> None:
    np.savez_compressed(cell / "samples.npz", arr_0=np.zeros((2**20, 8, 8, 1), np.uint8))


def anothers(cell: Path) -> None:
    other = Cell(cell.with_name("other"))
    other.keep_images(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), None)
    shutil.move(other.folder / "samples.npz", cell / "samples.npz")


TAMPERED = (changed_row, row_without_seal, changed_image, images_without_seal, pickled_images)


@pytest.mark.parametrize("tamper", [*TAMPERED, deflated_zeros, anothers])
def test_a_cell_that_was_changed_counts_for_nothing(tamper, tmp_path):
    cell, images = Cell(tmp_path / "cell"), torch.arange(192, dtype=torch.uint8).view(3, 1, 8, 8)
    cell.keep_images(images, torch.tensor([0, 1, 1]), ("猫", "dog"))
    cell.keep_row({"metrics": ["fid"], "fid": 1.5, "labels": (1, 2), "nfe": 2.0})
    assert cell.done(["fid"])
    found = cell.images()
    assert found is not None
    assert torch.equal(found[0], images)
    tamper(cell.folder)
    assert not cell.done(["fid"])
    assert cell.row is None or cell.images() is None


def test_a_row_that_was_changed_is_left_out_of_tables(tmp_path, caplog):
    cell = Cell(tmp_path / "cell")
    cell.keep_row(dict.fromkeys(ESSENTIAL, "x") | {"n": 2})
    assert [row["n"] for row in collect([tmp_path])] == [2]
    assert "seal" not in collect([tmp_path])[0]
    changed_row(cell.folder)
    with caplog.at_level("WARNING"):
        assert collect([tmp_path]) == []
    assert "was changed after it was written" in caplog.text


def test_images_that_no_metric_was_asked_of_are_no_fault_of_a_table(tmp_path, caplog):
    Cell(tmp_path / "a").keep_row({"sampler": "ddim", "metrics": []})
    Cell(tmp_path / "b").keep_row({"sampler": "ddim", "metrics": ["fid"]})
    with caplog.at_level("WARNING"):
        assert collect([tmp_path]) == []
    (told,) = caplog.messages
    assert "b/result.json, which is no finished row" in told


@pytest.fixture(scope="module")
def processes(ddpm, sweep, tmp_path_factory):
    """The runs that need processes of their own, all started at once."""
    folder = tmp_path_factory.mktemp("processes")
    names = ("devices", "joblib", "submitit")
    runs = {name: shutil.copytree(ddpm, folder / name / ddpm.name) for name in names}
    for run in runs.values():
        shutil.rmtree(run / "cells")
    two = ("steps=2", "num_samples=9", "deterministic=true", "sampler=ddpm", *FEATURES)
    many = ("-m", *ONLY_IMAGES, "num_samples=2", "seed=0,1")
    words = {
        "devices": (*two, "devices=2", "accelerator=cpu"),
        "joblib": (*many, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        "submitit": (*many, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=9"),
    }
    of = {
        name: there(folder / name, "sample", f"checkpoint={runs[name]}", *given)
        for name, given in words.items()
    }
    return SimpleNamespace(folder=folder, runs=runs, of=of, two=two)


def test_two_devices_make_the_same_images(processes, ddpm, tmp_path):
    done = worked(ended(processes.of["devices"]))
    folder = processes.folder / "devices" / done.folder
    alone = sample(tmp_path, ddpm, *processes.two)
    for mine, theirs in zip(arrays(folder), arrays(alone), strict=True):
        assert np.array_equal(mine, theirs)
    for mine, theirs in zip(rows(folder), rows(alone), strict=True):
        for column in ("sampler", "nfe", "n", "fid", "accuracy", "features_hash"):
            assert mine[column] == theirs[column]
    assert done.out.count("samples.png") == 1


@pytest.mark.parametrize("launcher", ["joblib", "submitit"])
def test_other_launchers_make_the_same_cells(launcher, processes):
    done = worked(ended(processes.of[launcher]))
    folder = processes.folder / launcher / done.folder
    pixels = [arrays(folder / str(job))[0] for job in range(2)]
    run = processes.runs[launcher]
    for seed, found in enumerate(pixels):
        expected = drawn(run, 2, "steps=2", f"seed={seed}", count=2).permute(0, 2, 3, 1)
        assert np.abs(found.astype(int) - expected.numpy().astype(int)).max() <= 1
    assert not np.array_equal(*pixels)
    assert len(list(run.glob("cells/*"))) == 2


def test_a_sweep_over_a_pattern_of_names_is_checked_and_tabulated(ddpm, cache, tmp_path):
    words = ("-m", f"checkpoint={ddpm}", "sampler=glob(dpmpp_*)", "steps=2", "num_samples=20")
    done = worked(here(tmp_path, "sample", *words, "accelerator=cpu", *FEATURES))
    (folder,) = (tmp_path / "runs" / "samples").iterdir()
    found = [row["sampler"] for row in rows(folder)]
    assert found == ["real (test)", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m"]
    assert "Warning" not in done.err
    refused = here(tmp_path, "sample", *words[:3], "steps=0")
    assert refused.line() == "steps=0: Input should be greater than or equal to 1"


def test_a_machine_without_a_home_keeps_its_cache_in_a_temporary_folder(monkeypatch, tmp_path):
    """A container's user without HOME and without a passwd entry."""

    def unknown(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = expanded("~/.cache/diffgen")
    assert found.is_relative_to(tmp_path)
    assert found.parts[-2:] == (".cache", "diffgen")


def test_remedies_about_a_data_set_name_the_keys_of_sample(tmp_path, cache):
    """One image leaves none to test; a folder that has moved is named by root=."""
    (tmp_path / "one").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "one" / "a.png")
    words = ("dataset=folder", "dataset.root=one", "trainer.max_steps=1", *TINY)
    run = worked(here(tmp_path, "train", *words)).folder
    coarse = ("features=random",)
    scored = here(tmp_path, "sample", f"checkpoint={run}", "num_samples=2", "steps=1", *coarse)
    assert scored.line().endswith("metrics=[] scores none")
    (tmp_path / "one").rename(tmp_path / "two")
    moved = here(tmp_path, "sample", f"checkpoint={run}", "num_samples=2", "steps=1", *coarse)
    assert moved.line().endswith("; set root=PATH")
