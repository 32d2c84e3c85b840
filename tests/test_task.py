"""Editing: exact laws on Gaussians, pixels kept to the bit, and ends that are what they claim."""

from typing import Any

import pytest
import torch
from analytic import Gaussian, scalar
from torch import Tensor

from diffgen.model import Denoiser
from diffgen.pixels import Range
from diffgen.sampler import Sampler
from diffgen.sampler.consistent import Consistent
from diffgen.sampler.ddim import DDIM
from diffgen.sampler.ddpm import DDPM
from diffgen.sampler.deis import DEIS
from diffgen.sampler.dpmpp_2m import DPMpp2M
from diffgen.sampler.dpmpp_2m_sde import DPMpp2MSDE
from diffgen.sampler.dpmpp_3m import DPMpp3M
from diffgen.sampler.euler import Euler
from diffgen.sampler.euler_maruyama import EulerMaruyama
from diffgen.sampler.heun import Heun
from diffgen.sampler.langevin import Langevin
from diffgen.sampler.pc import PC
from diffgen.sampler.rk45 import RK45
from diffgen.sampler.start import STARTS
from diffgen.sampler.unipc import UniPC
from diffgen.schedule import Schedule
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.linear import Linear
from diffgen.spacing import times
from diffgen.task.base import Task
from diffgen.task.generate import Generate
from diffgen.task.inpaint import Inpaint
from diffgen.task.moments import Conditioned
from diffgen.task.pictures import Pictures

CPU = torch.device("cpu")
ODE: dict[str, Sampler] = {
    "ddim": DDIM(),
    "euler": Euler(),
    "heun": Heun(),
    "dpmpp_2m": DPMpp2M(),
    "dpmpp_3m": DPMpp3M(),
    "unipc": UniPC(),
    "deis": DEIS(),
}
RANDOM: dict[str, Sampler] = {
    "ddpm": DDPM(),
    "fixedlarge": DDPM("fixedlarge"),
    "ddim_eta_1": DDIM(eta=1.0),
    "dpmpp_2m_sde": DPMpp2MSDE(),
    "euler_maruyama": EulerMaruyama(),
    "consistent": Consistent(),
    "langevin": Langevin(inner=3),
}
STEPPING = ODE | RANDOM | {"heun_churn": Heun(churn=3.0), "pc": PC()}
EVERY = STEPPING | {"rk45": RK45()}
SCHEDULES: dict[str, Schedule] = {
    "vp": Linear(),
    "ve": Geometric(sigma_max=5.0, sigma_min=0.01, levels=100),
}
AMONG = pytest.mark.parametrize
ON_BOTH = AMONG("schedule", SCHEDULES.values(), ids=SCHEDULES)


class OneAlbum:
    """Has the same pictures for every name."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def pictures(self, names: Any, resize: bool, grey: bool = False) -> Pictures:
        return Pictures(self.pixels, None)

    def mask(self, path: str, resize: bool) -> Tensor:
        raise AssertionError(path)


def task_of(
    task: type,
    sampler: Sampler,
    denoiser: Denoiser,
    pixels: Tensor,
    steps: int = 20,
    **settings: Any,
) -> Any:
    """A task on `pixels` uint8 (N, C, H, W)."""
    own = None if sampler.spacing == "ends" else steps
    context = {} if task is Generate else {"album": OneAlbum(pixels), "image": 0}
    return task(
        denoiser=denoiser,
        sampler=sampler,
        times=times(denoiser.schedule, sampler.spacing, own),
        start=STARTS[sampler.start],
        shape=tuple(pixels.shape[1:]),
        **{"seed": 3, "pixel_range": Range(), **context, **settings},
    )


def noise_pixels(*shape: int) -> Tensor:
    """Pictures of random bytes."""
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).byte()


# --- the exact law of whatever is affine in its noise


class Counted:
    """Noise that is none, and counts how often it is drawn."""

    def __init__(self) -> None:
        self.draws = 0

    def __call__(self, like: Tensor) -> Tensor:
        self.draws += 1
        return torch.zeros_like(like)

    uniform = __call__


class Unit:
    """Noise one number of which is 1 in each row, another in each, none in row 0."""

    def __init__(self) -> None:
        self.row = 1

    def __call__(self, like: Tensor) -> Tensor:
        numbers = like[0].numel()
        drawn = torch.zeros(len(like), numbers, dtype=like.dtype)
        drawn[self.row : self.row + numbers] = torch.eye(numbers, dtype=like.dtype)
        self.row += numbers
        return drawn.reshape(like.shape)

    def uniform(self, like: Tensor) -> Tensor:
        return self(like) / 12**0.5


def law(task: Task, monkeypatch: pytest.MonkeyPatch, image: int = 0) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of an image, for a sampler affine in its noise."""
    count, unit = Counted(), Unit()
    monkeypatch.setattr(Task, "noise", lambda self, streams: count)
    task.draw([image], CPU)
    monkeypatch.setattr(Task, "noise", lambda self, streams: unit)
    rows = 1 + count.draws * torch.Size(task.shape).numel()
    x = task.draw([image] * rows, CPU).flatten(1).double()
    apart = x[1:] - x[0]
    return x[0], apart.T @ apart


PIXELS = torch.tensor([180, 0, 90, 0], dtype=torch.uint8).reshape(1, 1, 2, 2)
AT = torch.arange(4, dtype=torch.float64)
COVARIANCE = 0.25 * (-(((AT[:, None] - AT) / 2) ** 2)).exp() + 0.03 * torch.eye(4)
MEAN = torch.tensor([-0.3, -0.1, 0.1, 0.3], dtype=torch.float64).reshape(1, 2, 2)
KNOWN = torch.tensor([True, False, True, False])
GIVEN = Range().to_model(PIXELS).flatten().double()


def conditional() -> tuple[Tensor, Tensor]:
    """Mean (2,) and covariance (2, 2) of the right pixels given the left ones."""
    gain = COVARIANCE[~KNOWN][:, KNOWN] @ COVARIANCE[KNOWN][:, KNOWN].inverse()
    mean = MEAN.flatten()[~KNOWN] + gain @ (GIVEN - MEAN.flatten())[KNOWN]
    return mean, COVARIANCE[~KNOWN][:, ~KNOWN] - gain @ COVARIANCE[KNOWN][:, ~KNOWN]


def errors(task: Task, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """How far the law of the right pixels is off: mean, and covariance, in its own units.

    The greatest error of a mean over its deviation; the greatest entry of the whitened
    covariance less the identity.
    """
    mean, covariance = law(task, monkeypatch)
    assert (mean[KNOWN] == GIVEN[KNOWN]).all()
    assert (covariance[KNOWN] == 0).all()
    truth, spread = conditional()
    white = torch.linalg.cholesky(spread).inverse()
    off = white @ covariance[~KNOWN][:, ~KNOWN] @ white.T - torch.eye(2)
    shift = (mean[~KNOWN] - truth) / spread.diagonal().sqrt()
    return float(shift.abs().max()), float(off.abs().max())


def halved(schedule: Schedule, sampler: Sampler, **settings: Any) -> Inpaint:
    """Inpainting of the right half of a Gaussian by its exact denoiser."""
    return task_of(Inpaint, sampler, Gaussian(schedule, COVARIANCE, MEAN), PIXELS, **settings)


# --- inpainting


@ON_BOTH
def test_moments_are_the_denoiser_of_the_conditional_law(schedule):
    """On the unknown pixels E[x0 | x_t, y] is the denoiser of p(x0 | y), whatever x_t knows."""
    mean, spread = conditional()
    exact = Gaussian(schedule, spread, mean.reshape(1, 2, 1))
    image = GIVEN.reshape(1, 1, 2, 2)
    known = KNOWN.reshape(1, 1, 2, 2)
    joint = Gaussian(schedule, COVARIANCE, MEAN)
    found = Conditioned(joint, image, known, error=1e-9, solves=2)
    x = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for t in (1.0, 0.5, 0.1, 0.02):
        x0 = found(x, scalar(t))
        torch.testing.assert_close(x0[..., 1:], exact(x[..., 1:], scalar(t)), atol=1e-7, rtol=1e-7)
        torch.testing.assert_close(x0[..., :1], image[..., :1].expand(5, -1, -1, -1))


@ON_BOTH
@AMONG("name", sorted((ODE | RANDOM).keys() - {"langevin"}))
def test_moments_give_the_law_that_the_sampler_gives_the_conditional(name, schedule, monkeypatch):
    """So what is left of an error is the sampler's own: none of it is the task's."""
    sampler = STEPPING[name]
    found, spread = law(halved(schedule, sampler, rule="moments"), monkeypatch)
    mean, truth = conditional()
    alone = Gaussian(schedule, truth, mean.reshape(1, 2, 1))
    plain = task_of(Generate, sampler, alone, PIXELS[..., :1], num_samples=1)
    expected, expected_spread = law(plain, monkeypatch)
    torch.testing.assert_close(found[~KNOWN], expected, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(spread[~KNOWN][:, ~KNOWN], expected_spread, atol=2e-4, rtol=2e-3)


@ON_BOTH
@AMONG("name", ["dpmpp_2m", "dpmpp_3m", "unipc", "deis", "dpmpp_2m_sde"])
def test_moments_give_the_conditional_law(name, schedule, monkeypatch):
    """In 50 steps: the mean to 0.03 of its deviation, the covariance to 0.02 of itself."""
    task = halved(schedule, STEPPING[name], rule="moments", steps=50)
    mean, covariance = errors(task, monkeypatch)
    assert mean < 0.03
    assert covariance < 0.02


REPLACED = {
    "ddpm": (DDPM(), 0.3, 0.3),
    "ddim": (DDIM(), 0.4, 0.2),
    "heun_jump": (Heun(), 0.45, 0.3),
    "dpmpp_2m_sde": (DPMpp2MSDE(), 0.25, 0.15),
    "consistent": (Consistent(), 0.25, 0.15),
}


@ON_BOTH
@AMONG("name", REPLACED)
def test_replacement_is_near_the_conditional_law(name, schedule, monkeypatch):
    """In 50 steps gone 5 times: what the rule's docstring calls hearing too little."""
    sampler, mean, covariance = REPLACED[name]
    task = halved(schedule, sampler, steps=50, jump=2 if "jump" in name else 1)
    found = errors(task, monkeypatch)
    assert found[0] < mean
    assert found[1] < covariance


def test_resampling_brings_replacement_nearer(monkeypatch):
    goes = [
        errors(halved(SCHEDULES["ve"], DDPM(), resample=n, steps=25), monkeypatch)[0]
        for n in (1, 4, 16)
    ]
    assert goes[0] > 2 * goes[1] > 3 * goes[2]
    assert goes[2] < 0.1
