"""EDM's augmentation: what is done, what is told of it, and that neither depends on company."""

import math

import pytest
import torch
from running import TINY, contents, here, worked
from torch import Tensor

from diffgen.dataset.augmentation import AUGMENT_DIM, DRAWS, changed, drawn

STEADY = ("logger=none", "optimizer.warmup=0", "optimizer.decay=constant")
SIZE = 16
NEVER, MIDDLE = 0.999, 0.5
# Columns of the uniform numbers: an event, which happens below the probability, and its size.
COLUMNS = {
    "mirror": (0,), "turn": (2, 1), "scale": (3, 4), "rotate": (5, 6),
    "stretch": (7, 8, 9, 10), "move": (11, 12, 13),
}  # fmt: skip


def uniforms(count: int = 1, **parts: tuple[float, ...]) -> Tensor:
    """Numbers by which nothing happens but `parts`, each column given."""
    u = torch.full((count, DRAWS), NEVER, dtype=torch.float64)
    for name, values in parts.items():
        for column, value in zip(COLUMNS[name], values, strict=True):
            u[:, column] = value
    return u


def bump(x: Tensor, y: Tensor) -> Tensor:
    """A smooth picture over pixels from the middle, so that resampling it is nearly exact."""
    return torch.exp(-0.05 * ((x - 1.5) ** 2 + 2 * (y + 1) ** 2))


def picture(inverse: Tensor | None = None) -> Tensor:
    """The bump (1, 2, SIZE, SIZE), or what a change of it should show: it at `inverse` (2, 2)."""
    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    if inverse is not None:
        x, y = inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y
    return bump(x, y).expand(1, 2, SIZE, SIZE).clone()


def near(found: Tensor, expected: Tensor, margin: int = 4) -> None:
    """Alike in the middle, where nothing comes from the mirrored frame."""
    inner = slice(margin, SIZE - margin)
    torch.testing.assert_close(
        found[..., inner, inner], expected[..., inner, inner], rtol=0, atol=0.02
    )


def made(**parts: tuple[float, ...]) -> tuple[Tensor, list[float]]:
    changes = drawn(uniforms(**parts), 0.5, SIZE)
    return changed(picture(), changes, torch.arange(1)), changes.augment_labels[0].tolist()


def test_nothing_is_done_and_nothing_told():
    found, labels = made()
    near(found, picture(), 0)
    assert labels == [0] * AUGMENT_DIM


def test_flips_are_to_the_pixel():
    found, labels = made(mirror=(0.1,))
    near(found, picture().flip(-1), 0)
    assert labels[:2] == [1, 0]
    found, labels = made(turn=(0.1, 0.1))
    near(found, picture().flip(-2), 0)
    assert labels[:2] == [0, 1]
    assert made(turn=(0.6, 0.1))[1] == [0] * AUGMENT_DIM  # not this time
    assert made(turn=(0.1, 0.6))[1] == [0] * AUGMENT_DIM  # the coin says no


def test_a_quarter_turn_is_a_quarter_turn():
    """Against the clock: what lay to the right lies above."""
    found, labels = made(rotate=(0.1, 0.75))
    near(found, picture().rot90(1, (-2, -1)))
    assert labels[3:5] == pytest.approx([-1, 1])


def test_a_move_is_of_an_eighth_of_the_width_a_deviation():
    one = 0.5 * (1 + math.erf(1 / math.sqrt(2)))  # the uniform number of one deviation
    found, labels = made(move=(0.1, one, MIDDLE))
    near(found, picture().roll(2, -1))
    assert labels[7:] == pytest.approx([1, 0], abs=1e-9)


def test_scale_and_stretch_have_their_factor():
    """2^(0.2 w) for a normal w; a stretch widens x and narrows y."""
    one = 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    factor = 2**0.2
    found, labels = made(scale=(0.1, one))
    near(found, picture(torch.eye(2) / factor))
    assert labels[2] == pytest.approx(1)
    found, labels = made(stretch=(0.1, one, 0.9, MIDDLE))
    near(found, picture(torch.diag(torch.tensor([1 / factor, factor]))))
    assert labels[5:7] == pytest.approx([1, 0])


def test_an_image_does_not_depend_on_its_company():
    u = torch.rand(12, DRAWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    changes, x = drawn(u, 0.8, SIZE), torch.rand(12, 3, SIZE, SIZE)
    whole = changed(x, changes, torch.arange(12))
    for rows in (torch.tensor([7]), torch.arange(4, 9)):
        part = changed(x[rows], changes, rows)
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-6)
    assert changes.augment_labels.shape == (12, AUGMENT_DIM)


def test_autocast_rounds_nothing():
    """Only the network is rounded; a warp in bfloat16 would move pixels by tenths."""
    u = torch.rand(6, DRAWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    changes, x = drawn(u, 0.8, SIZE), torch.rand(6, 3, SIZE, SIZE)
    plain = changed(x, changes, torch.arange(6))
    with torch.autocast("cpu", torch.bfloat16):
        found = changed(x, changes, torch.arange(6))
    assert found.dtype == torch.float32
    assert torch.equal(found, plain)


def test_how_often():
    u = torch.rand(4000, DRAWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = drawn(u, 0.12, SIZE).augment_labels
    rates = (labels != 0).double().mean(0).tolist()
    assert rates[:3] == pytest.approx([0.5, 0.06, 0.12], abs=0.03)
    assert rates[3:] == pytest.approx([0.12] * 2 + [0.12, 0.06] + [0.12] * 2, abs=0.03)
    kept = (labels[:, 1:] == 0).all(1).double().mean().item()
    assert kept == pytest.approx(0.94 * 0.88**4, abs=0.03)


def test_a_run_of_it_goes_on_to_the_bit_and_is_told(cache, tmp_path):
    words = (*TINY, "augment=0.5", "network.augment_dim=9", *STEADY)
    whole = worked(here(tmp_path, "train", *words, "trainer.max_steps=4")).folder
    half = worked(here(tmp_path, "train", *words, "trainer.max_steps=2")).folder
    worked(here(tmp_path, "train", f"resume={half}", "trainer.max_steps=4", "logger=none"))
    first, again = (
        contents(tmp_path / run / "checkpoints" / "last.ckpt")["state_dict"]
        for run in (whole, half)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    (labels,) = (value for key, value in first.items() if "augment" in key)
    assert labels.shape[1] == AUGMENT_DIM
    assert (labels != 0).all(0).any()


def test_a_network_that_is_not_told_is_refused(tmp_path):
    line = here(tmp_path, "train", "augment=0.1").line()
    assert line.startswith("augment=0.1: the network must be told of it")
    assert "network.augment_dim=9" in line
