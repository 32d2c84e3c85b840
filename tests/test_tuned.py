"""Optimised times: the shortest path, its costs, and that they beat every fixed spacing."""

from itertools import pairwise, permutations

import pytest
import torch
from analytic import SCHEDULES, Gaussian, scalar, two_peaks

from diffgen.errors import UsageError
from diffgen.sampler.base import first_order
from diffgen.sampler.ddim import DDIM
from diffgen.sampler.ddpm import DDPM
from diffgen.sampler.dpmpp_2m import DPMpp2M
from diffgen.sampler.likelihood import noiseless
from diffgen.sampler.tuned import (
    Path,
    Recorded,
    local_errors,
    miss,
    shortest,
    solved,
    tune,
    windows,
)
from diffgen.schedule import Schedule, spacing
from diffgen.schedule.linear import Linear


def starts(schedule: Schedule, count: int, seed: int) -> torch.Tensor:
    noise = torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
    return schedule.sigma(scalar(1)) * noise.double()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_shortest_path_against_all_paths(steps):
    """Six times, costs that depend on the step before."""
    costs = torch.full((6, 6, 6), torch.inf, dtype=torch.float64)
    for window in windows(6):
        costs[window] = torch.rand((), generator=torch.Generator().manual_seed(sum(window) * 7))

    def total(path: tuple[int, ...]) -> float:
        moves = zip([0, *path[:-2]], pairwise(path), strict=True)
        return sum(float(costs[k, i, j]) for k, (i, j) in moves)

    inner = [p for p in permutations(range(1, 5), steps - 1) if list(p) == sorted(p)]
    expected = min(((0, *p, 5) for p in inner), key=total)
    assert total(tuple(shortest(costs, steps))) == total(expected)


def test_local_errors_of_the_first_order():
    """DDIM's step from the fine solution, whatever came before, in the norm that survives."""
    schedule = Linear()
    denoiser, x = Gaussian(schedule, 0.25), starts(schedule, 20, 0)
    path = solved(denoiser, x, spacing.times(schedule, "log_snr", 6), None)
    errors = local_errors(DDIM(), schedule, path)
    t, s = path.times[2], path.times[4]
    step = first_order(schedule, path.states[2], path.estimates[2], t, s) - path.states[4]
    alpha, sigma, spread = schedule.alpha(s), schedule.sigma(s), path.states[-1].var()
    expected = step.square().mean().sqrt() * (spread / (alpha**2 * spread + sigma**2)).sqrt()
    for k in (0, 1):
        assert errors[k, 2, 4].item() == pytest.approx(expected.item())


def test_second_order_errs_less_where_history_helps():
    """From the middle of three neighbouring times out of forty."""
    schedule = Linear()
    path = solved(
        two_peaks(schedule), starts(schedule, 50, 0), spacing.times(schedule, "log_snr", 40), None
    )
    part = Path(path.times[17:20], path.states[17:20], path.estimates[17:19])
    first, second = (local_errors(f, schedule, part)[0, 1, 2] for f in (DDIM(), DPMpp2M()))
    assert second < first / 4


CASES = [("linear", DDIM(), 5), ("linear", DPMpp2M(), 8), ("ve", DDIM(), 8), ("ve", DPMpp2M(), 5)]


@pytest.mark.parametrize(("name", "sampler", "steps"), CASES, ids=str)
def test_tuned_times_beat_every_fixed_spacing(name, sampler, steps):
    """On starts that they were not tuned on."""
    schedule = SCHEDULES[name]
    denoiser = two_peaks(schedule)
    fixed = [spacing.times(schedule, kind, steps) for kind in spacing.SPACINGS]
    candidates = spacing.times(schedule, "log_snr", 20)
    tuned = tune(sampler, denoiser, starts(schedule, 64, 0), candidates, steps, others=fixed)
    x = starts(schedule, 300, 1)
    truth = solved(denoiser, x, spacing.times(schedule, "log_snr", 30), None)

    def error(times: torch.Tensor) -> float:
        return miss(sampler, denoiser, truth, times, None)

    assert tuned.shape == (steps + 1,)
    assert tuned[0] <= 1
    assert tuned[-1] == 0
    assert (tuned.diff() < 0).all()
    assert error(tuned) < 0.9 * min(map(error, fixed))


def test_a_start_below_the_first_time_gets_its_own_noise():
    """The ladder begins at sigma 5; from t = 0.5 one step is the estimate at sigma(0.5)."""
    schedule = SCHEDULES["ve"]
    denoiser, x = Gaussian(schedule, 0.25), starts(schedule, 9, 0)
    path = solved(denoiser, x, spacing.times(schedule, "log_snr", 6), None)
    half = scalar(0.5)
    estimate = denoiser(x * schedule.sigma(half) / schedule.sigma(scalar(1)), half)
    expected = (estimate - path.states[-1]).square().mean().sqrt().item()
    found = miss(DDIM(), denoiser, path, torch.tensor([0.5, 0.0], dtype=torch.float64), None)
    assert found == pytest.approx(expected)


def test_estimates_between_recorded_times_are_straight_in_log_snr():
    schedule = Linear()
    times = spacing.times(schedule, "log_snr", 5)
    values = [torch.full((1, 1, 1, 1), float(k)) for k in range(5)]
    recorded = Recorded(schedule, Path(times, values, values))
    log_snr = schedule.log_snr(times[:-1])
    for share in (0.0, 0.25, 1.0):
        t = schedule.time(torch.lerp(log_snr[2], log_snr[3], share))
        assert recorded(values[0], t).item() == pytest.approx(2 + share, abs=1e-6)


def test_the_plan_alone_is_good():
    """Before any search with the network."""
    schedule = Linear()
    denoiser, x = two_peaks(schedule), starts(schedule, 64, 0)
    candidates = spacing.times(schedule, "log_snr", 20)
    truth = solved(denoiser, x, candidates, None).states[-1]
    planned = tune(DDIM(), denoiser, x, candidates, 5, shares=())
    others = [spacing.times(schedule, kind, 5) for kind in spacing.SPACINGS]
    errors = [
        float((DDIM()(denoiser, x, times, None, noiseless) - truth).square().mean())
        for times in (planned, *others)
    ]
    assert errors[0] < 0.7 * min(errors[1:])


def test_one_step_leaves_no_choice():
    schedule = Linear()
    candidates = spacing.times(schedule, "log_snr", 6)
    times = tune(DDIM(), two_peaks(schedule), starts(schedule, 9, 0), candidates, 1)
    assert times.tolist() == [1, 0]


def test_random_samplers_are_refused():
    schedule = Linear()
    candidates = spacing.times(schedule, "log_snr", 6)
    with pytest.raises(UsageError, match="sampler=ddim"):
        tune(DDPM(), two_peaks(schedule), starts(schedule, 9, 0), candidates, 3)
