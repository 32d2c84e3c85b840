"""The change of range, to the last byte, and the layout of grids."""

import pytest
import torch
from PIL import Image

from diffgen.dataset.pixels import (
    RANGES,
    Range,
    by_class,
    enlarge,
    grid,
    save_png,
    save_sheet,
    standardised,
)
from diffgen.errors import UsageError

BYTES = torch.arange(256, dtype=torch.uint8)
ALL = {**RANGES, "standardised": Range(0.1307, 0.3081)}


@pytest.mark.parametrize("name", ALL)
def test_every_byte_survives_the_way_there_and_back(name):
    x = ALL[name].to_model(BYTES)
    assert x.dtype == torch.float32
    assert torch.equal(ALL[name].to_uint8(x), BYTES)
    assert x[0] == pytest.approx(ALL[name].low)
    assert x[-1] == pytest.approx(ALL[name].high)


def test_the_papers_ranges():
    ends = {name: (found.low, found.high) for name, found in RANGES.items()}
    assert ends == {"symmetric": (-1, 1), "unit": (0, 1)}


def test_bytes_are_rounded_and_never_wrap():
    x = torch.tensor([0.4999, 0.5001, 254.4999, 254.5001, 300.0, -40.0]) / 255
    assert RANGES["unit"].to_uint8(x).tolist() == [0, 1, 254, 255, 255, 0]
    extremes = torch.tensor([torch.inf, -torch.inf])
    assert RANGES["symmetric"].to_uint8(extremes).tolist() == [255, 0]


def test_standardised_images_have_mean_0_and_deviation_1():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 200, (50, 1, 4, 4), generator=generator).to(torch.uint8)
    x = standardised(pixels).to_model(pixels).double()
    assert x.mean().item() == pytest.approx(0, abs=1e-6)
    assert x.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    with pytest.raises(UsageError, match="one grey"):
        standardised(torch.full((2, 1, 2, 2), 7, dtype=torch.uint8))


def test_a_grid_goes_row_by_row_with_white_between():
    images = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1, 1)
    white = 255
    expected = [
        [white, white, white, white, white],
        [white, 10, white, 20, white],
        [white, white, white, white, white],
        [white, 30, white, 255, white],
        [white, white, white, white, white],
    ]
    assert grid(images)[0].tolist() == expected
    assert grid(images, columns=3).shape == (1, 3, 7)
    assert grid(images.expand(3, 3, 2, 4), columns=1, gap=0).shape == (3, 6, 4)


def test_enlarged_pixels_stay_square():
    picture = torch.tensor([[[1, 2], [3, 4]]], dtype=torch.uint8)
    large = enlarge(picture, width=4)
    assert large[0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert torch.equal(enlarge(picture, width=1), picture)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_same_bytes_and_leaves_nothing_else(channels, tmp_path):
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (channels, 3, 5), generator=generator).to(torch.uint8)
    save_png(picture, tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as image:
        read = torch.tensor(list(image.tobytes()), dtype=torch.uint8)
    assert torch.equal(read.view(3, 5, channels).permute(2, 0, 1), picture)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_a_sheet_is_an_enlarged_grid(tmp_path):
    images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)
    save_sheet(images, tmp_path / "sheet.png", columns=2)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (510, 510)  # 5 pixels of 102


def test_columns_are_classes():
    labels = torch.tensor([1, 0, 1, 0, 2, 2, 1])
    images = torch.zeros(7, 1, 1, 1)
    assert list(by_class(images, labels, 3, rows=2)) == [1, 0, 4, 3, 2, 5]
    assert list(by_class(images, labels, 3, rows=1)) == [1, 0, 4]
    assert list(by_class(images, labels, 9, rows=2)) == [1, 0, 4, 3, 2, 5]
    assert list(by_class(images, torch.full((7,), 5), 9, rows=2)) == [0, 1]
    assert list(by_class(images, None, 0, rows=2)) == [0, 1, 2, 3]
    assert list(by_class(images, None, 0, rows=3)) == list(range(7))
