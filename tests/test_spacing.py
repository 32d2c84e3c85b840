"""Spacings: exactly `steps` intervals, and the papers' times."""

import pytest
import torch
from analytic import SCHEDULES

from diffgen.errors import UsageError
from diffgen.schedule import spacing
from diffgen.schedule.edm import EDM
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.linear import Linear
from diffgen.schedule.ve import VE
from diffgen.schedule.vp import VP

EVERY = pytest.mark.parametrize("name", SCHEDULES)


@EVERY
@pytest.mark.parametrize("kind", spacing.SPACINGS)
def test_exactly_that_many_intervals(kind, name):
    """Falling all the way, ending at the image, none where no network was trained."""
    schedule = SCHEDULES[name]
    for steps in (1, 2, 3, 7, 10, 49, 50):
        times = spacing.times(schedule, kind, steps)
        assert times.shape == (steps + 1,)
        assert times.dtype == torch.float64
        assert times[0] <= 1
        assert (times.diff() < 0).all()
        assert times[-1] == 0
        assert times[-2] >= schedule.t_min - 1e-12


@pytest.mark.parametrize("kind", ["trailing", "linspace", "leading"])
def test_all_levels_are_the_papers_table(kind):
    times = spacing.times(Linear(), kind, None)
    torch.testing.assert_close(times[:-1], torch.arange(1000, 0, -1).double() / 1000)


@pytest.mark.parametrize("kind", ["linspace", "log_snr"])
def test_all_levels_of_a_ladder(kind):
    ladder = Geometric(sigma_max=50.0, levels=232)
    sigma = ladder.sigma(spacing.times(ladder, kind, None)[:-1])
    expected = 50 * (0.01 / 50) ** (torch.arange(232, dtype=torch.float64) / 231)
    torch.testing.assert_close(sigma, expected)


def test_trailing_levels():
    """Lin et al. 2024, table 2: 999, 899, ... 99 for ten of a thousand."""
    times = spacing.times(Linear(), "trailing", 10)
    assert Linear().level(times[:-1]).tolist() == list(range(999, 0, -100))


def test_leading_levels():
    """DDIM's range(0, T, T // S), backward; where S does not divide T still S of them."""
    times = spacing.times(Linear(), "leading", 10)
    assert Linear().level(times[:-1]).tolist() == list(range(900, -1, -100))
    times = spacing.times(Linear(), "leading", 30)
    assert Linear().level(times[:-1]).tolist() == list(range(0, 990, 33))[::-1]


def test_quadratic_levels():
    """DDIM's linspace(0, sqrt(0.8 T), S)^2, backward, before its code cuts off the fractions."""
    level = Linear().level(spacing.times(Linear(), "quadratic", 11)[:-1])
    torch.testing.assert_close(level, 800 * (torch.arange(10, -1, -1) / 10).double() ** 2)


def test_even_log_snr():
    log_snr = VP().log_snr(spacing.times(VP(), "log_snr", 20)[:-1])
    assert log_snr.diff().std() < 1e-9


@pytest.mark.parametrize("steps", [2, 18, 40])
def test_karras_steps(steps):
    """Equation 5, and the same numbers from EDM's own schedule in even steps."""
    i = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    expected = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    wide = VE(sigma_max=80.0, sigma_min=0.002, t_min=1e-9)
    found = wide.sigma(spacing.times(wide, "karras", steps)[:-1])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    found = EDM().sigma(spacing.times(EDM(), "linspace", steps)[:-1])
    torch.testing.assert_close(found, expected)


def test_pure_noise_is_no_obstacle():
    """A schedule that ends at alpha = 0 has no finite log-SNR there."""
    for kind in spacing.SPACINGS:
        assert spacing.times(Linear(zero_snr=True), kind, 10).isfinite().all()


def test_ends():
    assert spacing.times(Linear(), "ends", None).tolist() == [1, 0.001, 0]


def test_snapped_to_levels():
    ladder = Geometric(sigma_max=1.0)
    times = spacing.snapped(ladder, spacing.times(ladder, "linspace", 4))
    assert (times * 10).tolist() == pytest.approx([10, 7, 4, 1, 0])
    assert spacing.snapped(ladder, spacing.times(ladder, "linspace", 10))[0] == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: spacing.times(Linear(), "trailing", 1001), "1000"),
        (lambda: spacing.times(Linear(), "leading", 1001), "1000"),
        (lambda: spacing.times(Linear(), "trailing", 0), "1 or more"),
        (lambda: spacing.times(Linear(), "trialing", 5), "trailing"),
        (lambda: spacing.times(Linear(), "ends", 5), "steps=null"),
        (lambda: snapped_twice(), "10 noise levels"),
    ],
    ids=["too_many", "too_many_leading", "none", "misspelt", "adaptive", "levels_meet"],
)
def test_refusals(call, words):
    with pytest.raises(UsageError, match=words):
        call()


def snapped_twice() -> torch.Tensor:
    ladder = Geometric(sigma_max=1.0)
    return spacing.snapped(ladder, spacing.times(ladder, "linspace", 14))
