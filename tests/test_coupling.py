"""Optimal transport within a batch: the exact assignment, within labels, to the bit again."""

from itertools import permutations

import pytest
import torch
from running import TINY, contents, here, worked
from torch import Tensor

from diffgen.training.coupling import independent, ot

STEADY = ("optimizer.warmup=0", "optimizer.decay=constant")


def batch(count: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(count)
    return torch.randn(count, 1, 2, 2, generator=draws), torch.randn(
        count, 1, 2, 2, generator=draws
    )


def cost(x0: Tensor, eps: Tensor) -> float:
    return (x0 - eps).double().square().sum().item()


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_it_is_the_least_of_all_pairings(count):
    x0, eps = batch(count)
    every = [cost(x0, eps[list(order)]) for order in permutations(range(count))]
    found = ot(x0, eps, None)
    assert cost(x0, found) == pytest.approx(min(every))
    assert sorted(found.flatten().tolist()) == sorted(eps.flatten().tolist())
    assert independent(x0, eps, None) is eps


def test_noise_never_leaves_its_label():
    """Else what a label starts from would not be the law of noise."""
    x0, eps = batch(6)
    label = torch.tensor([0, 1, 0, 10, 1, 0])
    found = ot(x0, eps, label)
    for k in (0, 1, 10):
        rows = label == k
        least = min(cost(x0[rows], eps[rows][list(o)]) for o in permutations(range(rows.sum())))
        assert cost(x0[rows], found[rows]) == pytest.approx(least)
        assert sorted(found[rows].flatten().tolist()) == sorted(eps[rows].flatten().tolist())


def test_paths_get_shorter_and_their_law_stays_the_noise():
    """In a large batch each noise is still used once, and pairs lie nearer."""
    x0, eps = (
        torch.randn(256, 1, 1, 1, generator=torch.Generator().manual_seed(k)) for k in (1, 2)
    )
    found = ot(x0, eps, None)
    assert cost(x0, found) < cost(x0, eps) / 20  # of one pixel: both sorted
    assert torch.equal(found.flatten()[x0.flatten().argsort()], eps.flatten().sort().values)


def test_a_run_of_it_goes_on_to_the_bit(cache, tmp_path):
    words = (*TINY, "model=flow", "model.coupling=ot", "logger=none", *STEADY)
    whole = worked(here(tmp_path, "train", *words, "trainer.max_steps=4")).folder
    half = worked(here(tmp_path, "train", *words, "trainer.max_steps=2")).folder
    worked(here(tmp_path, "train", f"resume={half}", "trainer.max_steps=4", "logger=none"))
    plain = (*words, "model.coupling=independent", "trainer.max_steps=4")
    other = worked(here(tmp_path, "train", *plain)).folder
    first, again, apart = (
        contents(tmp_path / run / "checkpoints" / "last.ckpt")["state_dict"]
        for run in (whole, half, other)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], apart[key]) for key in first)
