"""The report: one file with all rows, figures and images, sorted and filtered in a browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image
from running import here, worked
from sklearn.datasets import load_digits
from test_evaluation import real, row

from diffgen.commands.report import render
from diffgen.runs.cell import Cell

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
DIGITS = torch.from_numpy(load_digits().images / 16 * 255).byte()[:, None]
WAYS = [
    ("ddim", 10, 0.0),
    ("ddim", 10, 10.0),
    ("ddim", 5, 0.0),
    ("heun", 10, 0.0),
    ("<b>", 10, 0.0),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with a cell for each of WAYS, real images, and the log of its training."""
    run = tmp_path_factory.mktemp("runs") / "digits_ddpm"
    run.mkdir()
    for k, (sampler, steps, weight) in enumerate(WAYS):
        cell = Cell.of(run, {"k": k}, run.parent)
        cell.folder.mkdir(parents=True)
        cell.keep_images(DIGITS[k * 40 : k * 40 + 40], None)
        figures = {"fid": 10.0 / steps + weight, "sampler": sampler, "steps": steps, "nfe": steps}
        figures["fid_error"] = 0.5
        cell.keep_row(row(n=40, weight=weight, scale=1 + weight, **figures))
    floor = Cell.of(run, {"k": "real"}, run.parent)
    floor.folder.mkdir(parents=True)
    floor.keep_row(real(n=40, fid=0.125))
    lines = "".join(f"{90 - k},{1 / k},{2 / k},,{k}\n" for k in range(1, 9))
    (run / "metrics.csv").write_text(f"images_per_second,loss,loss/t0.1,loss/t0.2,step\n{lines}")
    return run


@pytest.fixture(scope="module")
def page(run):
    done = worked(here(run.parent, "report", "digits_ddpm"))
    assert done.out.strip() == "digits_ddpm/report.html"
    return run / "report.html"


class Parsed(HTMLParser):
    """Texts of the cells of a page's rows, the addresses it refers to, its count of figures."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.addresses, self.svgs, self.inside = [], [], 0, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.addresses += [named[key] for key in ("src", "href", "action") if key in named]
        self.svgs += tag == "svg"
        if tag == "tr":
            shown = "row" in (named.get("class") or "").split() and "hidden" not in named
            self.rows += [[]] if shown else []
            self.inside = shown
        elif tag == "td" and self.inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "tr"

    def handle_data(self, data):
        if self.inside and self.rows[-1]:
            self.rows[-1][-1] += data


def test_a_report_needs_nothing_beside_it(page):
    found = Parsed(page.read_text())
    assert [line[0] for line in found.rows] == ["real (test)", "<b>", *["ddim"] * 3, "heun"]
    assert all(address.startswith(("data:image/png", "#")) for address in found.addresses)
    assert sum(address.startswith("data:") for address in found.addresses) == len(WAYS)
    assert found.svgs == 3  # against evaluations, against weight, the training
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttp", page.read_text())


def test_the_same_cells_give_the_same_file(page, run, tmp_path):
    again = tmp_path / "again.html"
    worked(here(run.parent, "report", "digits_ddpm", "--out", str(again)))
    assert again.read_bytes() == page.read_bytes()


def test_rows_that_do_not_compare_stand_in_tables_of_their_own(run, tmp_path):
    (tmp_path / "other").mkdir()
    other = Cell.of(tmp_path / "other", {}, tmp_path)
    other.folder.mkdir(parents=True)
    other.keep_row(row(features="inception", features_hash="ghi", n=50))
    worked(here(tmp_path, "report", str(run), "other", "--out", "both.html"))
    assert (tmp_path / "both.html").read_text().count("<table>") == 2


@pytest.mark.parametrize("words", [["nowhere"], ["empty"], []])
def test_nothing_to_report_ends_in_one_line(tmp_path, words):
    (tmp_path / "empty").mkdir()
    done = here(tmp_path, "report", *words)
    assert done.status == 2
    assert done.line()


in_a_browser = pytest.mark.skipif(not BROWSER, reason="no chromium: apt install chromium")


def browse(page, *options, where=""):
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    command = [BROWSER, *quiet, *options, f"file://{page}{where}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


VIEWS = {
    "": ["real (test)", "<b>", "ddim", "ddim", "ddim", "heun"],
    "#words=heun": ["heun"],
    "#without=ddim,heun": ["real (test)", "<b>"],
}


@in_a_browser
@pytest.mark.parametrize(("where", "samplers"), VIEWS.items())
def test_a_browser_filters(page, where, samplers):
    shown = Parsed(browse(page, "--dump-dom", where=where)).rows
    assert [line[0] for line in shown] == samplers


@in_a_browser
def test_a_browser_sorts_numbers_as_numbers(page):
    dom = browse(page, "--dump-dom", where="#sort=FD(classifier)&down=1")
    head = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<th[ >].*?</th>", dom)]
    column = [
        float(line[head.index("FD(classifier)")].split(" ± ")[0]) for line in Parsed(dom).rows
    ]
    assert column == sorted(column, reverse=True)
    assert column[:2] == [11.0, 2.0]
    assert 'aria-sort="descending"' in dom


@in_a_browser
def test_a_browser_draws_the_whole_page(page, tmp_path):
    browse(page, "--window-size=1280,2000", f"--screenshot={tmp_path / 'page.png'}")
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size == (1280, 2000)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 500


def test_trainings_and_failed_jobs_are_rows_that_open(tmp_path):
    """Also where nothing was sampled."""
    recipes = [{"dataset": {"name": "digits"}, "optimizer": {"lr": lr}} for lr in (0.5, 0.25)]
    trained = [
        {"run": f"{tmp_path}/{k}", "step": 5, "loss": 0.125, "checkpoint": "last.ckpt"}
        | {"recipe": recipe, "checkpoint_hash": str(k)}
        for k, recipe in enumerate(recipes)
    ]
    (tmp_path / "1").mkdir()
    (tmp_path / "1/metrics.csv").write_text("loss,step\n1.0,1\n0.5,2\n")
    failed = [{"job": "2", "settings": "seed=<3>", "reason": "no memory"}]
    page = render([], trained, failed)
    found = Parsed(page)
    assert [line[0] for line in found.rows] == ["0.5", "0.25", "2"]
    assert found.rows[2] == ["2", "seed=<3>", "no memory"]
    assert "<dt>optimizer.lr</dt><dd>0.25</dd>" in page
    assert found.svgs == 1
    assert f"<h3>optimizer.lr=0.25, {tmp_path.name}/1</h3>" in page
