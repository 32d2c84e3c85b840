"""Optimised times: where a sampler should stop, for one model and a budget of steps.

A fine solution gives the state and the estimate of x0 at each candidate time. Along it the error
of any step is known without the network, and dynamic programming finds the path of least total
error (as Watson et al. 2021 do for a bound). A search with the network follows, since an error
also bends the steps after it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from diffgen.denoiser import Denoiser
from diffgen.errors import UsageError
from diffgen.sampler.base import Sampler, log_snrs
from diffgen.sampler.likelihood import noiseless
from diffgen.sampler.unipc import UniPC
from diffgen.schedule import Schedule

SHARES = (0.5, 0.25, 0.25, 0.12, 0.12, 0.06)


@dataclass(frozen=True)
class Path:
    """A fine solution at candidate `times` (n + 1,), the last 0."""

    times: Tensor
    states: list[Tensor]  # n + 1 times (B, C, H, W), the last one the images
    estimates: list[Tensor]  # of x0, at the n times above 0


class Recorded(Denoiser):
    """The estimates along a path, whatever the state; between its times, straight in log-SNR."""

    def __init__(self, schedule: Schedule, path: Path) -> None:
        super().__init__()
        self.schedule, self.path = schedule, path
        self.log_snr = log_snrs(schedule, path.times[:-1])
        times: list[float] = path.times.tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        self.table = dict(zip(times, path.estimates, strict=False))

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        found = self.table.get(float(t))
        return self.between(t) if found is None else found

    def between(self, t: Tensor) -> Tensor:
        """The estimate at a time that the path does not hold."""
        log_snr = log_snrs(self.schedule, t)
        k = int(torch.searchsorted(self.log_snr, log_snr).clamp(1, len(self.log_snr) - 1))
        before, after = self.log_snr[k - 1], self.log_snr[k]
        share = float(((log_snr - before) / (after - before)).clamp(0, 1))
        return torch.lerp(self.path.estimates[k - 1], self.path.estimates[k], share)


def tune(
    sampler: Sampler,
    denoiser: Denoiser,
    x: Tensor,
    candidates: Tensor,
    steps: int,
    label: Tensor | None = None,
    others: Sequence[Tensor] = (),
    shares: Sequence[float] = SHARES,
) -> Tensor:
    """Times (steps + 1,), the last 0, at which the sampler errs least on states x.

    `candidates` fall to 0 (some 30, even in log-SNR); x (B, C, H, W) are starts at the first,
    drawn as for sampling; `others`, each (steps + 1,), are times that the answer shall not be
    worse than; one that begins below candidates[0] is given x at its own sigma. The search moves
    each time by `shares` of the distance to its neighbours.
    """
    with torch.no_grad():
        path = solved(denoiser, x, candidates, label)
        planned = candidates[shortest(local_errors(sampler, denoiser.schedule, path), steps)]

        def error(times: Tensor) -> float:
            return miss(sampler, denoiser, path, times, label)

        best = min((planned, *others), key=error)
        return refined(denoiser.schedule, best, error, shares)


def miss(
    sampler: Sampler, denoiser: Denoiser, path: Path, times: Tensor, label: Tensor | None
) -> float:
    """Root mean square between the path's images and what the sampler makes of its starts.

    Times that begin below the path's first begin with the same noise at their own sigma.
    """
    sigma = denoiser.schedule.sigma
    x = sigma(times[0]) / sigma(path.times[0]) * path.states[0]
    found = sampler(denoiser, x, times, label, noiseless)
    return float((found - path.states[-1]).square().mean().sqrt())


def check_tunable(sampler: Sampler, schedule: Schedule, candidates: Tensor) -> None:
    """UsageError where a sampler draws noise or chooses its own steps; no network is called."""
    if not sampler.takes_steps:
        raise UsageError("this sampler chooses its own steps, so there are no times to tune")
    nothing = torch.zeros(1, 1, 1, 1)
    still = Path(candidates, [nothing] * len(candidates), [nothing] * (len(candidates) - 1))
    sampler(Recorded(schedule, still), nothing, candidates, None, noiseless)


def solved(denoiser: Denoiser, x: Tensor, times: Tensor, label: Tensor | None) -> Path:
    """The path of x by UniPC, four steps to each interval of times."""
    schedule, states = denoiser.schedule, [x]
    log_snr = log_snrs(schedule, times[:-1])
    parts = torch.arange(4, dtype=torch.float64) / 4
    fine = (log_snr[:-1, None] + log_snr.diff()[:, None] * parts).flatten()
    fine = torch.cat([schedule.time(fine), times[-2:-1]])
    fine[::4] = times[:-1]
    for k, state in enumerate(UniPC().trajectory(denoiser, x, fine, label, noiseless), 1):
        if k % 4 == 0:
            states.append(state)
    estimates = [denoiser(state, t, label) for state, t in zip(states, times, strict=False)]
    return Path(times, [*states, estimates[-1]], estimates)


def local_errors(sampler: Sampler, schedule: Schedule, path: Path) -> Tensor:
    """Error (n + 1, n + 1, n + 1) of the step from i to j after one from k to i.

    At [0, 0, j] stands the first step; what is no path is infinite. The root mean square is scaled
    by what a Gaussian with the images' variance would let survive to the end.
    """
    count = len(path.times)
    sigma, alpha = schedule.sigma(path.times), schedule.alpha(path.times)
    spread = path.states[-1].cpu().double().var()
    survives = (spread / (alpha**2 * spread + sigma**2)).sqrt()
    errors = torch.full((count,) * 3, torch.inf, dtype=torch.float64)
    recorded = Recorded(schedule, path)
    # Step from k to i and on to j along the recorded estimates; multistep solvers need k.
    for k, i, j in windows(count):
        stops = path.times[[i, j]] if i == 0 else path.times[[k, i, j]]
        steps = sampler.trajectory(recorded, path.states[k], stops, None, noiseless)
        found = [path.states[k], *steps]
        # With x0 given, every solver carries an error of x on in proportion to sigma.
        slip = sigma[j] / sigma[i] * (found[-2] - path.states[i])
        errors[k, i, j] = survives[j] * (found[-1] - path.states[j] - slip).square().mean().sqrt()
    return errors


def windows(count: int) -> list[tuple[int, int, int]]:
    """k < i < j below count, and (0, 0, j)."""
    return [
        (k, i, j)
        for i in range(count - 1)
        for k in (range(i) if i else [0])
        for j in range(i + 1, count)
    ]


def shortest(errors: Tensor, steps: int) -> list[int]:
    """Indices (steps + 1) from the first to the last along which errors sum to the least."""
    best, before = errors[0, 0].expand_as(errors[0]).clone(), list[Tensor]()
    best[1:] = torch.inf
    # best[i, j]: the least sum over paths that end with the step from i to j.
    for _ in range(steps - 1):
        best, came = (best[:, :, None] + errors).min(0)
        before.append(came)
    # Walk back from the last time through what each minimum came from.
    path = [len(best) - 1, int(best[:, -1].argmin())]
    for came in reversed(before):
        path.append(int(came[path[-1], path[-2]]))
    return path[::-1]


def refined(
    schedule: Schedule, times: Tensor, error: Callable[[Tensor], float], shares: Sequence[float]
) -> Tensor:
    """Times (n,) nearby of no greater error; the first and the last stay."""
    least, lowest = error(times), times.new_tensor([schedule.t_min])
    for share, k in product(shares, range(1, len(times) - 1)):
        log_snr = log_snrs(schedule, torch.cat([times[:-1], lowest]))
        for neighbour in (k + 1, k - 1):
            moved = times.clone()
            there = log_snr[k] + share * (log_snr[neighbour] - log_snr[k])
            moved[k] = schedule.time(there).clamp(min=schedule.t_min)
            if (moved.diff() < 0).all() and (found := error(moved)) < least:
                times, least = moved, found
                break
    return times
