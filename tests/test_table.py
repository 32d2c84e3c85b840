"""`diffgen table`: what may stand together, names of checkpoints, sorting, pivots and formats."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from running import TINY, here, worked
from test_evaluation import real, row

from diffgen.config.parts import Named
from diffgen.evaluation.rows import FLOOR, blocks, pooled
from diffgen.evaluation.table import main_cells, write
from diffgen.evaluation.table_csv import failed_row
from diffgen.evaluation.table_formats import BEST, Part, formatted
from diffgen.evaluation.training_table import training_parts, with_differences
from diffgen.evaluation.trainings import differences, short_paths, trainings
from diffgen.sampling import log_tables
from diffgen.sampling.training_row import training_rows

RECIPE = {
    "seed": 0,
    "runs": "runs",
    "dataset": {"name": "mnist"},
    "model": {"name": "ddpm", "clip": True},
    "network": {"name": "unet", "width": 64},
    "optimizer": {"lr": 1e-3, "warmup": 100},
    "ema": {"average": {"decay": 0.999}},
}


def recipe(**changes):
    """RECIPE with other settings, as model__name="edm"."""
    found = json.loads(json.dumps(RECIPE))
    for key, value in changes.items():
        *groups, last = key.split("__")
        place = found
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return found


def of(number, **changes):
    """A row of the checkpoint of a run that is called a number, as those of sweeps are."""
    made = {"recipe": recipe(**changes), "run": f"sweeps/{number // 10}/{number % 10}"}
    return (
        row(checkpoint=str(number % 10), checkpoint_hash=f"hash{number}", fid=1.0 + number) | made
    )


def kept(folder, rows):
    for k, one in enumerate(rows):
        path = folder / "cells" / f"{k:02}" / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(one))


# --- what tells trainings apart -------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"optimizer__lr": 1e-4}, {"optimizer.lr": 1e-4}),
        (
            {"optimizer__lr": 1e-4, "network__width": 32},
            {"network.width": 32, "optimizer.lr": 1e-4},
        ),
        ({"model__name": "edm", "network__width": 32, "optimizer__lr": 0.1}, {"model": "edm"}),
        ({"network__name": "dit", "network__depth": 4}, {"network": "dit"}),
        ({"network__name": "dit", "seed": 3}, {"network": "dit", "seed": 3}),
        ({"dataset__name": "digits"}, {"dataset": "digits"}),
        ({"model__clip": False}, {"model.clip": "false"}),
        ({"augment": 0.1}, {"augment": 0.1}),
        ({"runs": "elsewhere", "trainer__devices": 2, "preview__every": 5}, {}),
        ({"optimizer__warmup": 100.0}, {}),
    ],
)
def test_trainings_are_told_apart_by_what_was_chosen(changes, told):
    assert differences([recipe(), recipe(**changes)])[1] == told


def test_a_setting_that_a_model_does_not_bring_is_told_beside_it():
    rows = [
        {"model__name": name, "optimizer__lr": lr} for name in ("ddpm", "edm") for lr in (1.0, 2.0)
    ]
    assert differences([recipe(**each) for each in rows]) == [
        {"model": each["model__name"], "optimizer.lr": each["optimizer__lr"]} for each in rows
    ]


def test_runs_with_one_recipe_are_told_apart_by_their_folders():
    assert trainings([of(10), of(21)]) == [{"run": "1/0"}, {"run": "2/1"}]
    assert trainings([of(10), {**of(10), "step": 5, "checkpoint_hash": "x"}]) == [{}, {}]
    same = [of(10), {**of(10), "checkpoint_hash": "other"}]
    assert [each["run"] for each in trainings(same)] == ["1/0 [hash10]", "1/0 [other]"]
    assert short_paths(["/a/b/c/d"]) == ["c/d"]
    assert short_paths(["/a/b/c", "x/y"]) == ["/a/b/c", "x/y"]


def test_checkpoints_of_one_name_are_neither_pooled_nor_alike(tmp_path):
    """Two sweeps have a run 0 each, whose seeds are no seeds of one way of sampling."""
    rows = [of(10, optimizer__lr=0.1), of(20, optimizer__lr=0.2) | {"seed": 1}]
    (block,) = blocks([*rows, real()])
    assert len(pooled(block.rows)) == 2
    heads, body = main_cells(block)
    assert [line[heads.index("optimizer.lr")] for line in body] == ["", "0.1", "0.2"]
    assert not {"checkpoint", "run"} & set(heads)
    write(tmp_path, blocks(rows))
    lines = list(csv.DictReader((tmp_path / "table.csv").open(newline="")))
    assert [json.loads(line["training"]) for line in lines] == [
        {"optimizer.lr": 0.1},
        {"optimizer.lr": 0.2},
    ]
    assert lines[0]["run"] == "sweeps/1/0"
    assert "recipe" not in lines[0]


def test_rows_without_a_recipe_still_say_which_is_which():
    without = [{key: v for key, v in of(k).items() if key != "recipe"} for k in (10, 21)]
    heads, body = main_cells(blocks(without)[0])
    assert [line[heads.index("run")] for line in body] == ["1/0", "2/1"]


# --- which rows stand together --------------------------------------------------------------


def test_rows_that_do_not_compare_have_tables_and_best_rows_of_their_own(tmp_path):
    """The worst of one reference is not told to be behind the best of another."""
    kinds = ({}, {"features_hash": "xyz"}, {"reference_hash": "xyz"}, {"n": 500})
    moved = {"first": [0.01] * 20, "second": [0.0] * 20}
    rows = [
        row(sampler=sampler, fid=fid + 10 * k) | kind | {"fid_influence": moved}
        for k, kind in enumerate(kinds)
        for sampler, fid in (("ddim", 1.0), ("heun", 2.0))
    ]
    kept(tmp_path, rows)
    out = worked(here(tmp_path, "table", ".", "--format", "md")).out
    assert out.count("| :--- |") == len(kinds)
    starred = [line for line in out.splitlines() if "| * |" in line]
    assert len(starred) == len(kinds)
    assert all(line.startswith("| ddim |") for line in starred)
    pivot = worked(here(tmp_path, "table", ".", "--pivot", "sampler,steps", "--format", "md")).out
    assert [line for line in pivot.splitlines() if line.endswith("* |")] == [
        line for line in pivot.splitlines() if line.startswith("| ddim |")
    ]
    assert pivot.count("| ddim |") == len(kinds)


# --- order, pivot, formats ------------------------------------------------------------------

SWEPT = [
    row(sampler=sampler, steps=steps, nfe=steps, seed=seed, kid=0.5, fid=fid * seed / steps)
    for sampler, fid in (("heun_x", 10.0), ("ddim", 40.0))
    for steps in (5, 10)
    for seed in (1, 2)
]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Two samplers, two counts of steps, two seeds, and real images."""
    folder = tmp_path_factory.mktemp("table")
    kept(folder, [*SWEPT, real(fid=0.5)])
    return folder


def printed(folder, *words):
    text = worked(here(folder, "table", ".", "--format", "csv", *words)).out
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("word", ["fid", "FD(classifier)", "fd(CLASSIFIER)"])
def test_rows_are_sorted_by_a_column_or_its_head(cells, word):
    found = printed(cells, "--sort", word)
    assert found[0]["sampler"] == FLOOR
    figures = [float(line["fid"]) for line in found[1:]]
    assert figures == sorted(figures)
    down = printed(cells, "--sort", word, "--descending")
    assert [float(line["fid"]) for line in down[1:]] == figures[::-1]


def test_a_pivot_holds_the_mean_over_seeds(cells):
    (heun, ddim) = sorted(
        printed(cells, "--pivot", "sampler,NFE"), key=lambda line: line["sampler"], reverse=True
    )
    assert list(heun) == ["sampler", "NFE = 5", "NFE = 10"]
    assert ddim == {"sampler": "ddim", "NFE = 5": "12 ± 5.7", "NFE = 10": "6 ± 2.8"}
    assert heun["NFE = 10"] == "1.5 ± 0.71"
    by_seed = printed(cells, "--pivot", "sampler,seed", "--figure", "KID")
    assert by_seed[0] == {"sampler": "ddim", "steps": "5", "seed = 1": "0.5", "seed = 2": "0.5"}


class Table(HTMLParser):
    """The texts of the cells of a page's rows, and those that are bold."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.bold, self.tag = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tag = tag
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and data.strip():
            self.rows[-1][-1] += data
            self.bold += [data] if self.tag == "b" else []


HARD = Part(
    "50 % of a_b & <c>", (["sampler", "FD", "best"], [["[x] <b>\\_{&}|", "0.1 ± 0.2", "*"]])
)


def test_html_is_what_a_browser_reads_back():
    found = Table(formatted("html", [HARD]))
    assert found.rows == [["sampler", "FD"], ["[x] <b>\\_{&}|", "0.1 ± 0.2"]]
    assert found.bold == ["0.1 ± 0.2"]


@pytest.mark.parametrize("name", ["<b>c</b>", "p|q*r`s", "_a_ $x$ ~~b~~", "back\\slash | *"])
def test_markdown_is_what_a_reader_of_it_shows(name):
    grid = ["sampler", name], [["ddim", f"{name}: 3{BEST}"], ["x_y", "1"]]
    text = formatted("md", [Part(f"{name} of classifier_free", grid)])
    assert "classifier_free" in text
    page = Table(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))
    assert page.rows == [["sampler", name], ["ddim", f"{name}: 3{BEST}"], ["x_y", "1"]]
    assert r"\$" in text or "$" not in name  # formulas, of those who show them


def test_latex_escapes_every_character_that_has_a_meaning():
    text = formatted("latex", [HARD])
    assert r"\caption{50 \% of a\_b \& \textless{}c\textgreater{}}" in text
    line = r"{[}x] \textless{}b\textgreater{}\textbackslash{}\_\{\&\}\textbar{} & "
    assert line + r"\textbf{0.1 $\pm$ 0.2} \\" in text
    assert r"\begin{tabular}{lr}" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("form", ["md", "csv", "latex", "html"])
def test_each_format_has_the_same_figures_and_is_all_that_is_printed(cells, form, tmp_path):
    out = worked(here(cells, "table", ".", "--format", form, "--out", str(tmp_path))).out
    assert all(re.search(rf"(?<![\d.]){row['fid']:.4g}(?!\d)", out) for row in SWEPT)
    ending = {"latex": "tex"}.get(form, form)
    assert (tmp_path / f"table.{ending}").read_text() == out
    assert (tmp_path / "table.png").is_file()


REFUSED = {
    ("--sort", "-fid"): "--sort takes a column, as --sort fid; --descending has",
    ("--sort", "fidd"): "no row has a column 'fidd'; did you mean fid?",
    ("--pivot", "sampler"): "--pivot takes two columns, as --pivot sampler,steps",
    ("--pivot", "sampler,nowhere"): "no row has a column 'nowhere'",
    ("--pivot", "sampler,steps", "--figure", "recall"): "no row has a column 'recall'",
    ("--pivot", "sampler,steps", "--figure", "ema"): "no row of n = 2000 has a number in ema",
    ("--format", "word"): "argument --format: invalid choice: 'word'",
}


@pytest.mark.parametrize(("words", "line"), REFUSED.items())
def test_what_no_table_has_is_refused_in_one_line(cells, words, line):
    done = here(cells, "table", ".", *words)
    assert done.status == 2
    assert done.line().startswith(line)


# --- trainings as rows ----------------------------------------------------------------------


MEASURED = ("evaluate.every=3", "evaluate.num_samples=0", "evaluate.held_out=20")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, cache):
    """Two trainings of one setting each, and one that fails."""
    folder = tmp_path_factory.mktemp("trainings")
    short = ("trainer.max_steps=6", "trainer.log_every=2", "optimizer.warmup=1", *MEASURED)
    done = here(folder, "train", "-m", *TINY, *short, "optimizer.lr=1e-3,2e-3,1e30")
    assert done.status == 1
    assert "1 of 3 jobs failed" in done.err
    return done.folder


def test_a_sweep_of_trainings_ends_with_its_table(sweep):
    lines = list(csv.DictReader((sweep / "table.csv").open(newline="")))
    assert [json.loads(line["training"]) for line in lines[:2]] == [
        {"optimizer.lr": 0.001},
        {"optimizer.lr": 0.002},
    ]
    for job, line in enumerate(lines[:2]):
        with (sweep / str(job) / "metrics.csv").open(newline="") as file:
            logged = list(csv.DictReader(file))
        assert float(line["loss"]) == float([each["loss"] for each in logged if each["loss"]][-1])
        losses = {int(e["step"]): float(e["held_out_loss"]) for e in logged if e["held_out_loss"]}
        assert (float(line["best"]), int(line["best_step"])) == min(
            (loss, step) for step, loss in losses.items()
        )
        assert float(line["held_out_loss"]) == losses[6]
        assert line["step"] == "6"
    assert "lower optimizer.lr" in lines[2]["reason"]
    assert "optimizer.lr=1e" in lines[2]["words"]
    text = (sweep / "table.md").read_text()
    assert "| optimizer.lr | step | loss | held-out loss | best | images/s | run |" in text
    assert "Jobs that failed:" in text


def test_a_checkpoint_shows_the_figures_of_its_own_step(sweep):
    run = sweep / "0"
    log = run / "metrics.csv"
    kept = log.read_text()
    head = kept.splitlines()[0].split(",")
    later = ",".join({"step": "9", "held_out_loss": "0.25"}.get(name, "") for name in head)
    try:
        log.write_text(f"{kept}{later}\n")
        (row,) = training_rows([run / "best"])
        assert row["checkpoint"] == "best.ckpt"
        assert row["held_out_loss"] != 0.25
        assert (row["best"], row["best_step"]) == (0.25, 9)
    finally:
        log.write_text(kept)
    both = worked(here(sweep, "table", "0", "0/best", "1", "--format", "md", "--sort", "loss")).out
    assert both.count("| best.ckpt |") == 1
    done = here(sweep, "table", "0/best", "0/checkpoints/none.ckpt")
    assert done.line() == "no folder and no checkpoint at 0/checkpoints/none.ckpt"


def test_trainings_measured_in_different_ways_stand_in_different_tables():
    """FD by few images is larger, whatever the training."""
    evaluated = {"evaluate__features": "random", "evaluate__steps": 5}
    rows = [
        {"run": f"runs/{k}", "step": 5, "fd": 1.0, "checkpoint": "last.ckpt"}
        | {"recipe": recipe(**evaluated, evaluate__num_samples=count, optimizer__lr=float(k))}
        for k, count in enumerate((100, 200, 100))
    ]
    parts = training_parts(with_differences(rows))
    assert [len(part.grid[1]) for part in parts] == [2, 1]
    assert "FD of 100 images drawn in 5 steps while training, features random" in parts[0].text


# --- what a logger gets ---------------------------------------------------------------------


class Recorder:
    """A logger that keeps what it is given, tables as wandb's own."""

    def __init__(self):
        self.tables, self.pictures, self.summary, self.ended = {}, {}, {}, False
        self.experiment = self

    def log_table(self, key, columns, data):
        wandb = pytest.importorskip("wandb")
        self.tables[key] = wandb.Table(columns=columns, data=data)

    def log_image(self, key, images, **more):
        self.pictures[key] = (images, more)

    def finish(self):
        self.ended = True


def test_wandb_gets_numbers_captions_and_what_the_jobs_share(tmp_path, monkeypatch):
    recorder, configs = Recorder(), []

    def start(settings, folder, config):
        configs.append(config)
        return recorder

    monkeypatch.setattr(log_tables, "logger_of", start)
    rows = [
        *(real(), row(steps=5, fid=2.0, fid_per_class={"cat": 1.0}, labels=["cat"])),
        row(steps=10, fid=1.5, settings={"eta": 1.0}),
        failed_row({"settings": "sampler=heun steps=7", "reason": "it failed", "job": "2"}),
    ]
    (tmp_path / "table.png").write_bytes(b"")
    settings = [{"steps": steps, "sampler": {"name": "ddim", "eta": 0}} for steps in (5, 10)]
    log_tables.log_results(
        Named("wandb", {}), tmp_path, settings, rows, {tmp_path / "0.png": "ddim, 5 steps"}
    )
    assert configs == [{"sampler": "ddim", "sampler.eta": 0}]
    table = recorder.tables["table"]
    column = {name: [line[k] for line in table.data] for k, name in enumerate(table.columns)}
    assert column["fid"] == [0.125, 2.0, 1.5, None]
    assert column["steps"] == [None, 5, 10, 7.0]
    assert column["settings"] == [None, "", "eta=1.0", None]
    assert column["labels"] == [None, "cat", None, None]
    assert column["reason"][-1] == "it failed"
    assert not {"identity", "versions", "recipe"} & column.keys()
    assert recorder.summary["fid"] == 1.5
    assert recorder.summary["way"] == "ddim, eta=1.0, 10 steps"
    assert recorder.pictures["samples"] == (
        [str(tmp_path / "0.png")],
        {"caption": ["ddim, 5 steps"]},
    )
    assert "figure" in recorder.pictures
    assert recorder.ended


def test_a_sweep_finds_the_cells_of_a_run_that_was_moved_alone(tmp_path, caplog):
    job, cell = tmp_path / "runs" / "samples" / "now" / "0", tmp_path / "runs/digits_ddpm/1/cells"
    kept(cell.parent, [row(sampler="heun")])
    job.mkdir(parents=True)
    (job / "cells.json").write_text(json.dumps({"cells": ["../../../digits_ddpm/1/cells/00"]}))
    cell.parent.rename(tmp_path / "elsewhere")
    alone = here(tmp_path, "table", "runs/samples/now")
    assert alone.status == 2
    assert "name its new folder, too: diffgen table runs/samples/now RUN" in caplog.text
    caplog.clear()
    assert "heun" in worked(here(tmp_path, "table", "runs/samples/now", "elsewhere")).out
    assert not caplog.text
