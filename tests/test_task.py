"""Editing: exact laws on Gaussians, pixels kept to the bit, and ends that are what they claim."""

import csv
import json
import os
from copy import deepcopy
from dataclasses import asdict, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analytic import Gaussian, scalar
from PIL import Image
from running import here, tree, worked
from torch import Tensor

from diffgen.config.schema import Sample
from diffgen.dataset.digits import Digits
from diffgen.dataset.pixels import RANGES, Range
from diffgen.denoiser import Denoiser
from diffgen.errors import UsageError
from diffgen.runs.checkpoint import Checkpoint
from diffgen.sampler import Sampler, SeededNoise
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
from diffgen.sampler.noise import STARTS
from diffgen.sampler.pc import PC
from diffgen.sampler.rk45 import RK45
from diffgen.sampler.unipc import UniPC
from diffgen.sampling.inputs import CheckpointInputs
from diffgen.sampling.request import request_of
from diffgen.schedule import Schedule
from diffgen.schedule.geometric import Geometric
from diffgen.schedule.linear import Linear
from diffgen.schedule.spacing import times
from diffgen.task.base import Task
from diffgen.task.colorize import Colorize, _RotatedColors, grey_first, rotate
from diffgen.task.denoise import REVERSE, Denoise
from diffgen.task.generate import Generate
from diffgen.task.inpaint import Inpaint, masks
from diffgen.task.inputs import LoadedImages
from diffgen.task.interpolate import Interpolate, MixedNoise, slerp
from diffgen.task.mmps import MMPSDenoiser
from diffgen.task.trajectory import Trajectory
from diffgen.task.variations import Variations

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


class OneImage:
    """Has the same pictures for every name."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def load(self, names: Any, resize: bool, grey: bool = False) -> LoadedImages:
        return LoadedImages(self.pixels, None)

    def mask(self, path: str, resize: bool) -> Tensor:
        raise AssertionError(path)


MULTISTEP = (UniPC(), DEIS(), DPMpp2M(), DPMpp3M(), DPMpp2MSDE())  # near exact here at log_snr


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
    context = {} if task in (Generate, Trajectory) else {"inputs": OneImage(pixels), "image": 0}
    return task(
        denoiser=denoiser,
        sampler=sampler,
        times=times(
            denoiser.schedule, "log_snr" if sampler in MULTISTEP else sampler.spacing, own
        ),
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
    found = MMPSDenoiser(joint, image, known, error=1e-9, solves=2)
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
    """In 50 steps: the mean to 0.03 of its deviation, the covariance to 0.07 of itself."""
    task = halved(schedule, STEPPING[name], rule="moments", steps=50)
    mean, covariance = errors(task, monkeypatch)
    assert mean < 0.03
    assert covariance < 0.07


REPLACED = {
    "ddpm": (DDPM(), 0.35, 0.3),
    "ddim": (DDIM(), 0.42, 0.2),
    "heun_jump": (Heun(), 0.4, 0.2),
    "dpmpp_2m_sde": (DPMpp2MSDE(), 0.25, 0.2),
    "consistent": (Consistent(), 0.25, 0.2),
}


@ON_BOTH
@AMONG("name", REPLACED)
def test_replacement_is_near_the_conditional_law(name, schedule, monkeypatch):
    """In 30 steps gone 5 times: what the rule's docstring calls hearing too little."""
    sampler, mean, covariance = REPLACED[name]
    task = halved(schedule, sampler, steps=30, jump=2 if "jump" in name else 1)
    found = errors(task, monkeypatch)
    assert found[0] < mean
    assert found[1] < covariance


def test_more_moves_bring_langevin_nearer(monkeypatch):
    """50 levels of NCSN's rule: its moves are its resampling."""
    few, many = (
        errors(halved(SCHEDULES["ve"], Langevin(inner=inner), steps=50), monkeypatch)
        for inner in (5, 20)
    )
    assert few[0] < 0.3
    assert few[1] < 0.4
    assert many[0] < 0.6 * few[0]
    assert many[1] < 0.6 * few[1]


def test_resampling_brings_replacement_nearer(monkeypatch):
    goes = [
        errors(halved(SCHEDULES["ve"], DDPM(), resample=n, steps=25), monkeypatch)[0]
        for n in (1, 4, 16)
    ]
    assert goes[0] > 2 * goes[1] > 3 * goes[2]
    assert goes[2] < 0.1


def test_langevin_inpaints_by_algorithm_2():
    """Song and Ermon 2019: noisy known pixels once a level, pasted after every move."""
    ladder, rate = SCHEDULES["ve"], 0.1
    epsilon = rate * float(ladder.sigma(scalar(ladder.t_min))) ** 2
    denoiser = Gaussian(ladder, COVARIANCE, MEAN)
    task = halved(ladder, Langevin(epsilon=epsilon, inner=4), results=3, steps=6)
    known, image = KNOWN.reshape(1, 1, 2, 2), GIVEN.reshape(1, 1, 2, 2).float()
    noise = SeededNoise(3, range(3))
    x = task.begin(torch.zeros(3, 1, 2, 2), noise)
    for t in task.times[:-1]:
        sigma = ladder.sigma(t).float()
        pasted = image + sigma * noise(x)
        x = torch.where(known, pasted, x)
        for _ in range(4):
            move = rate * sigma**2
            x = x + move * denoiser.score(x, t) + (2 * move).sqrt() * noise(x)
            x = torch.where(known, pasted, x)
    x = torch.where(known, image, denoiser(x, task.times[-2]))
    torch.testing.assert_close(task.draw(range(3), CPU), x, atol=1e-5, rtol=1e-5)


@AMONG("rule", ["replace", "moments"])
@AMONG("name", STEPPING)
@ON_BOTH
def test_known_pixels_come_back_to_the_bit(name, rule, schedule):
    """All bytes, in every range, for several pictures each with a mask of its own."""
    pixels = noise_pixels(2, 1, 16, 16)
    pixels[0] = torch.arange(256).byte().reshape(1, 16, 16)
    for pixel_range in (*RANGES.values(), Range(0.13, 0.31)):
        task = task_of(
            Inpaint,
            STEPPING[name],
            Gaussian(schedule, 0.25),
            pixels,
            mask="random",
            rule=rule,
            steps=4,
            pixel_range=pixel_range,
            results=2,
        )
        found, lost = task(range(4), CPU), task.lost.repeat_interleave(2, 0)
        given = pixels.repeat_interleave(2, 0)
        assert (found[~lost] == given[~lost]).all()
        assert (found[lost] != given[lost]).float().mean() > 0.9
        assert (found[0] != found[1]).any()


def test_masks():
    """Which pixels are lost, by name."""
    shares = {"left": 1 / 2, "bottom": 1 / 2, "center": 1 / 4, "random": 1 / 4, "every_3": 8 / 9}
    for name, share in shares.items():
        lost = masks(name, 0, 5, 12, 12)
        assert lost is not None
        assert lost.float().mean((1, 2)).tolist() == pytest.approx([share] * 5)
    assert named("left")[:, :6].all()
    assert named("right")[:, 6:].all()
    assert named("top")[:6].all()
    assert named("bottom")[6:].all()
    assert named("center")[3:9, 3:9].all()
    assert not named("every_4")[::4, ::4].any()
    boxes = masks("random", 0, 9, 12, 12)
    assert boxes is not None
    assert len(boxes.unique(dim=0)) > 5
    assert torch.equal(boxes[:4], masks("random", 0, 4, 12, 12))
    with pytest.raises(UsageError, match="every_2"):
        masks("every_1", 0, 1, 8, 8)


def named(name: str) -> Tensor:
    found = masks(name, 0, 1, 12, 12)
    assert found is not None
    return found[0]


# --- colours

COLOURS = torch.tensor(
    [[0.3, 0.2, 0.1], [0.2, 0.4, 0.15], [0.1, 0.15, 0.2]], dtype=torch.float64
)  # covariance of one pixel's channels


def test_turning_colours():
    """Axes are orthogonal, grey first; a turned Gaussian is the Gaussian of turned covariance."""
    axes = grey_first(3)
    torch.testing.assert_close(axes @ axes.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(axes[0], torch.full((3,), 3**-0.5, dtype=torch.float64))
    c = torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = _RotatedColors(Gaussian(Linear(), COLOURS), axes)(c, scalar(0.3))
    exact = Gaussian(Linear(), axes @ COLOURS @ axes.T)(c, scalar(0.3))
    torch.testing.assert_close(found, exact)
    torch.testing.assert_close(rotate(rotate(c, axes), axes.T), c)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rotate(c.float(), axes), rotate(c.float(), axes.float()))
        assert rotate(c.float(), axes).dtype == torch.float32


@ON_BOTH
def test_colours_have_their_law_given_grey(schedule, monkeypatch):
    """p(colour | mean of the channels), by moments and 2M."""
    pixels = torch.tensor([100, 140, 180], dtype=torch.uint8).reshape(1, 3, 1, 1)
    task = task_of(
        Colorize,
        DPMpp2M(),
        Gaussian(schedule, COLOURS, torch.zeros(3, 1, 1, dtype=torch.float64)),
        pixels,
        rule="moments",
        steps=50,
    )
    mean, covariance = law(task, monkeypatch)
    ones = torch.ones(3, dtype=torch.float64)
    gain = COLOURS @ ones / (ones @ COLOURS @ ones)
    grey = Range().to_model(pixels).double().sum()
    expected = COLOURS - torch.outer(gain, COLOURS @ ones)
    torch.testing.assert_close(mean, gain * grey, atol=0.01, rtol=0)
    torch.testing.assert_close(covariance, expected, atol=0.005, rtol=0)


@AMONG("name", STEPPING)
@ON_BOTH
def test_colours_keep_the_grey_picture(name, schedule):
    """The mean of the channels; of bytes, within the rounding of three."""
    pixels = (noise_pixels(1, 3, 8, 8) // 4 + 96).byte()
    task = task_of(Colorize, STEPPING[name], Gaussian(schedule, 0.01), pixels, steps=4)
    found, grey = task.draw(range(4), CPU), task.clean([0], CPU).mean(1)
    torch.testing.assert_close(found.mean(1), grey.expand(4, -1, -1), atol=1e-5, rtol=0)
    assert (found[0] != found[1]).any()
    if name == "ddpm":
        bytes_off = task(range(4), CPU).float().mean(1) - pixels.float().mean(1)
        assert bytes_off.abs().max() <= 0.5


# --- interpolation


class Classes(Denoiser):
    """The exact denoiser of two Gaussians by label, dark and bright; without one, of their middle.

    It works number by number, so that no bit of an image depends on its batch.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        mean = torch.zeros(()) if label is None else (0.8 * label - 0.4).reshape(-1, 1, 1, 1)
        alpha, sigma = self.schedule.at(t, x_t)
        gain = 0.02 * alpha / (0.02 * alpha**2 + sigma**2)
        return mean + gain * (x_t - alpha * mean)


BLANK = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)


@AMONG("labels", [None, (0,), (0, 1)], ids=str)
@AMONG("name", STEPPING)
@ON_BOTH
def test_ends_between_generated_images_are_these_images(name, labels, schedule):
    """To the bit, and each with the label it had."""
    denoiser = Classes(schedule)
    between = task_of(
        Interpolate,
        STEPPING[name],
        denoiser,
        BLANK,
        image=None,
        pairs=2,
        frames=3,
        labels=labels,
        num_classes=2 if labels else 0,
        steps=6,
    )
    plain = replaced_by_generate(between, 3)
    strips = between.draw(range(6), CPU).unflatten(0, (2, 3))
    assert torch.equal(strips[:, 0], plain[:2])
    assert torch.equal(strips[:, 2], plain[1:])
    assert (strips[:, 1] != strips[:, 0]).any()


def replaced_by_generate(task: Task, count: int) -> Tensor:
    """What plain generation makes of the same settings."""
    plain = Generate(
        denoiser=task.denoiser,
        sampler=task.sampler,
        times=task.times,
        start=task.start,
        pixel_range=task.pixel_range,
        shape=task.shape,
        seed=task.seed,
        labels=task.labels,
        num_classes=task.num_classes,
        num_samples=count,
    )
    return plain.draw(range(count), CPU)


def test_mixed_noise_keeps_unit_variance():
    """All the way, draw by draw, where a straight line would lose half of it in the middle."""
    share = torch.linspace(0, 1, 5, dtype=torch.float64)
    p, q = (SeededNoise(0, [k] * 5) for k in (1, 2))
    noise, like = MixedNoise(p, q, share), torch.zeros(5, 20000)
    for _ in range(2):
        variance = noise(like).var(dim=1)
        assert variance.tolist() == pytest.approx([1] * 5, abs=4 * (2 / 20000) ** 0.5)
    flat = noise.uniform(like)
    assert flat.min() >= 0
    assert flat.max() < 1


def test_arcs_keep_their_length():
    """Between orthogonal ends of one length; a straight line where there is no angle."""
    p, q = torch.zeros(3, 2, 1, 1), torch.zeros(3, 2, 1, 1)
    p[:, 0], q[:, 1] = 2, 2
    share = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    arc = slerp(p, q, share)
    assert arc.flatten(1).norm(dim=1).tolist() == pytest.approx([2, 2, 2])
    assert torch.equal(arc[0], p[0])
    torch.testing.assert_close(arc[2], q[2])
    torch.testing.assert_close(slerp(p, p, share), p)


@AMONG("name", ["ddim", "heun", "dpmpp_2m", "ddpm", "dpmpp_2m_sde", "langevin"])
@ON_BOTH
def test_images_between_generated_ones_have_the_law_of_images(name, schedule, monkeypatch):
    """Mean and variance in the middle of a strip are those at its ends."""
    task = task_of(
        Interpolate,
        STEPPING[name],
        Gaussian(schedule, COVARIANCE, MEAN),
        PIXELS,
        image=None,
        frames=3,
    )
    monkeypatch.setattr(Task, "noise", lambda self, streams: SeededNoise(0, streams))
    strips = task.pairs * torch.arange(3000)
    ends, middle = (
        task_draw(task, (task.frames * strips + k).tolist()).flatten(1) for k in (0, 1)
    )
    plain = torch.cov(ends.T).diagonal()
    found = torch.cov(middle.T).diagonal()
    torch.testing.assert_close(found, plain, atol=0, rtol=6 * (2 / 3000) ** 0.5)
    spread = 6 * (plain / 3000).sqrt()
    assert ((middle.mean(0) - ends.mean(0)).abs() < spread).all()


def task_draw(task: Task, images: list[int]) -> Tensor:
    return task.draw(images, CPU)


@AMONG("name", [*ODE, "rk45"])
@ON_BOTH
def test_encoded_ends_are_the_pictures_there_and_back(name, schedule):
    """In 40 steps, within 10 grey levels for first order, within 1 for the others."""
    pixels = noise_pixels(3, 1, 4, 4) // 2 + 64
    denoiser = Gaussian(schedule, 0.3**2)
    task = task_of(Interpolate, EVERY[name], denoiser, pixels, image=[0, 1, 2], frames=3, steps=40)
    strips = task(range(6), CPU).float().unflatten(0, (2, 3))
    bound = 10 if name in ("ddim", "euler") else 1
    assert (strips[:, 0] - pixels[:2]).abs().max() <= bound
    assert (strips[:, 2] - pixels[1:]).abs().max() <= bound
    latents = task.latents(task.given, CPU) / schedule.sigma(scalar(1.0))
    rms = ((Range().to_model(pixels) / 0.3) ** 2).mean().sqrt()
    assert (latents**2).mean().sqrt().item() == pytest.approx(rms.item(), rel=0.05)


@AMONG("name", STEPPING)
@ON_BOTH
def test_pictures_mixed_at_no_noise_are_a_dissolve(name, schedule):
    """At strength 0 the ends are the pictures themselves."""
    pixels = noise_pixels(2, 1, 4, 4)
    denoiser = Gaussian(schedule, 0.25)
    task = task_of(
        Interpolate, STEPPING[name], denoiser, pixels, image=[0, 1], frames=3, strength=0.0
    )
    found = task(range(3), CPU)
    assert torch.equal(found[[0, 2]], pixels)
    assert (found[1].float() - pixels.float().mean(0)).abs().max() <= 0.5


# --- variations


@AMONG("name", EVERY)
@ON_BOTH
def test_variations_from_the_picture_to_a_new_image(name, schedule):
    """Strength 0 is the picture to the bit; 1 has the law of new images and forgets it."""
    pixels = torch.full((1, 1, 32, 32), 230, dtype=torch.uint8)
    pixels[..., 16:] = 20
    denoiser = Gaussian(schedule, 0.05, 0.2)
    task = task_of(
        Variations,
        EVERY[name],
        denoiser,
        pixels,
        strength=[0.0, 0.3, 1.0],
        results=2,
        steps=40,
    )
    found = task.draw(range(6), CPU)
    assert torch.equal(task.pixel_range.to_uint8(found[:2]), pixels.expand(2, -1, -1, -1))
    new, plain = found[4:], replaced_by_generate(task, 2)
    numbers = new.numel()
    spread = plain.var().item()
    assert new.mean().item() == pytest.approx(0.2, abs=5 * (spread / numbers) ** 0.5 + 0.02)
    assert new.var().item() == pytest.approx(spread, rel=5 * (2 / numbers) ** 0.5 + 0.03)
    halves = new[..., :16].mean() - new[..., 16:].mean()
    assert abs(halves) < 5 * (4 * spread / numbers) ** 0.5 + 0.03
    apart = [(found[k : k + 2] - found[:1]).square().mean() for k in (0, 2, 4)]
    assert 0 == apart[0] < apart[1] < 1.1 * apart[2]


@ON_BOTH
def test_strengths_are_levels(schedule):
    """Of a model that knows levels; the times below are the plain run's."""
    task = task_of(
        Variations, DDIM(), Gaussian(schedule, 0.1), PIXELS, strength=[0.4999, 1e-5], steps=5
    )
    first, least = task.path_times
    levels = schedule.levels or 0
    assert first.tolist() == pytest.approx([round(0.4999 * levels) / levels, 0.4, 0.2, 0.0])
    assert least.tolist() == pytest.approx([schedule.t_min, 0.0])


# --- denoising


@ON_BOTH
@AMONG("sampler", REVERSE, ids=str)
def test_denoising_draws_from_the_posterior(sampler, schedule, monkeypatch):
    """The mean exactly; draws within the sampler's own error in 100 steps."""
    sigma = 0.2
    task = task_of(
        Denoise, sampler, Gaussian(schedule, COVARIANCE, MEAN), PIXELS, steps=100, sigma=sigma
    )
    variance = (sigma / task.pixel_range.scale) ** 2
    gain = COVARIANCE @ (COVARIANCE + variance * torch.eye(4)).inverse()
    mean = MEAN.flatten() + gain @ (GIVEN - MEAN.flatten())
    spread = COVARIANCE - gain @ COVARIANCE
    assert task.path_times.diff().max() < 0
    assert len(task.path_times) == 101
    torch.testing.assert_close(task.draw([0], CPU).flatten().double(), mean, atol=1e-5, rtol=0)
    found, covariance = law(task, monkeypatch, image=1)
    torch.testing.assert_close(found, mean, atol=0.02, rtol=0)
    torch.testing.assert_close(covariance, spread, atol=0.01, rtol=0)


def test_noise_is_added_once_to_a_picture():
    """All draws see the same noisy picture, with noise of the asked size."""
    pixels = torch.full((1, 1, 64, 64), 128, dtype=torch.uint8)
    denoiser = Gaussian(Linear(), 0.04)
    task = task_of(Denoise, DDPM(), denoiser, pixels, sigma=0.1, add_noise=True, results=1)
    noise = (task.noisy - Range().to_model(pixels)) * task.pixel_range.scale
    assert noise.std().item() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(task.draw([0], CPU), task.draw([1, 0], CPU)[1:])


# --- what all share


SETTINGS: dict[str, tuple[type, dict[str, Any]]] = {
    "generate": (Generate, {"num_samples": 9}),
    "inpaint": (Inpaint, {"mask": "random"}),
    "moments": (Inpaint, {"rule": "moments"}),
    "interpolate": (Interpolate, {"image": None, "frames": 3, "num_classes": 2}),
    "dissolve": (Interpolate, {"frames": 3, "strength": 0.6, "labels": (0, 1)}),
    "encode": (Interpolate, {"frames": 3}),
    "variations": (Variations, {"strength": [0.2, 0.9], "results": 3}),
    "denoise": (Denoise, {"sigma": 0.1, "add_noise": True}),
    "trajectory": (Trajectory, {"ways": 2, "frames": 3}),
}


@AMONG("name", SETTINGS)
def test_an_image_does_not_depend_on_its_company(name):
    """The same bytes alone, in a batch, and in another order."""
    kind, settings = SETTINGS[name]
    sampler = DDIM() if name == "encode" else DDPM()
    task = task_of(kind, sampler, Classes(Linear()), noise_pixels(3, 1, 4, 4), 6, **settings)
    together = task(range(task.count), CPU)
    for image in (0, task.count - 1, 4):
        assert torch.equal(task([image], CPU)[0], together[image])
    assert torch.equal(task([4, 0], CPU), together[[4, 0]])
    shared = task.count // 3 - 1 if kind is Interpolate else 0  # ends of two strips
    shared += 2 if kind is Trajectory else 0  # at the end the estimate is the image
    assert len(together.unique(dim=0)) == task.count - shared


@AMONG("name", SETTINGS)
def test_what_is_shown(name):
    """A sheet of all, one picture of each image or each strip, and the mask."""
    kind, settings = SETTINGS[name]
    sampler = DDIM() if name == "encode" else DDPM()
    task = task_of(kind, sampler, Classes(Linear()), noise_pixels(3, 1, 4, 4), 6, **settings)
    images = noise_pixels(task.count, 1, 4, 4)
    files = task.files(images)
    single = [files[key] for key in sorted(files) if key.startswith("images/")]
    if single:
        assert torch.equal(torch.stack(single), images)
    assert ("samples.png" in files) == (name != "generate")
    assert ("mask.png" in files) == (kind is Inpaint)
    strips = [key for key in files if key.endswith(".gif")]
    assert len(strips) == {Interpolate: task.count // 3, Trajectory: 2}.get(kind, 0)


def test_the_way_goes_from_the_noise_to_the_generated_image():
    """Its states are those of generation, shown with the deviation of the range."""
    denoiser, pictures = Gaussian(Geometric(sigma_max=50), 0.3), noise_pixels(1, 1, 16, 16)
    shared = {"num_classes": 2, "seed": 3}
    way = task_of(Trajectory, DDIM(), denoiser, pictures, 6, ways=2, frames=3, **shared)
    made = task_of(Generate, DDIM(), denoiser, pictures, 6, num_samples=2, **shared)
    frames = way(range(way.count), CPU).unflatten(0, (2, 2, 3))
    images = made([0, 1], CPU)
    assert torch.equal(frames[:, 0, -1], images)  # the state at the end
    assert torch.equal(frames[:, 1, -1], images)  # and the estimate
    drawn = way.draw(range(12), CPU).unflatten(0, (2, 2, 3))
    first = way.begin(way.blank([0, 1], CPU), way.noise([0, 1]))
    estimate = denoiser(first, way.times[0], torch.tensor([0, 1]))
    torch.testing.assert_close(drawn[:, 1, 0], estimate)
    assert drawn[:, 0, 0].std().item() == pytest.approx(1, abs=0.1)  # sigma is 50 there
    assert drawn[:, 0, 0].mean().item() == pytest.approx(0, abs=0.1)


REFUSED = {
    "adaptive": (Inpaint, RK45(), {}, "sampler=heun"),
    "adaptive_labels": (Interpolate, RK45(), {"image": None, "num_classes": 2}, "sampler=heun"),
    "adaptive_pictures": (Interpolate, RK45(), {"labels": (0, 1)}, "sampler=heun"),
    "encode_random": (Interpolate, DDPM(), {}, "sampler=ddim"),
    "encode_langevin": (Interpolate, Langevin(), {}, "sampler=ddim"),
    "posterior_ode": (Denoise, DDIM(), {"sigma": 0.1}, "task.results=0"),
    "posterior_langevin": (Denoise, Langevin(), {"sigma": 0.1}, "sampler=ddpm"),
    "posterior_churn": (Denoise, Heun(churn=3.0), {"sigma": 0.1}, "sampler=ddpm"),
    "no_noise": (Denoise, DDPM(), {"sigma": 1e-4}, "inside"),
    "too_strong": (Variations, DDPM(), {"strength": 1.5}, r"\[0, 1\]"),
    "no_strength": (Variations, DDPM(), {"strength": []}, "strength=0"),
    "one_frame": (Interpolate, DDPM(), {"frames": 1}, "frames=1"),
    "strength_of_none": (Interpolate, DDPM(), {"image": None, "strength": 0.5}, "task.image"),
    "no_goes": (Inpaint, DDPM(), {"resample": 0}, "resample=0"),
    "adaptive_way": (Trajectory, RK45(), {}, "sampler=heun"),
    "one_state": (Trajectory, DDPM(), {"frames": 1}, "frames=1"),
    "no_mask": (Inpaint, DDPM(), {"mask": "lft"}, "left"),
    "grey_model": (Colorize, DDPM(), {}, "3 channels"),
}


@AMONG(("kind", "sampler", "settings", "words"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_the_remedy(kind, sampler, settings, words):
    with pytest.raises(UsageError, match=words):
        task_of(kind, sampler, Classes(Linear()), noise_pixels(2, 1, 4, 4), **settings).draw(
            [0], CPU
        )


def test_a_network_of_levels_is_asked_at_levels_alone():
    """Of a picture's noise and of the steps below it."""
    ladder = Geometric(sigma_max=5.0, levels=10)
    seen: list[float] = []
    denoiser = Gaussian(ladder, 0.1)
    denoiser.register_forward_pre_hook(lambda _, given: seen.append(float(given[1])))
    sigma = float(ladder.sigma(scalar(0.6))) / 2
    settings = {"sigma": sigma, "levels_only": True, "results": 1}
    task_of(Denoise, DDPM(), denoiser, PIXELS, 10, **settings).draw([0, 1], CPU)
    assert [round(10 * t, 6) for t in seen] == [6, 6, 5, 4, 3, 2, 1]
    with pytest.raises(UsageError, match=rf"task\.sigma={sigma:.4g} or"):
        task_of(Denoise, DDPM(), denoiser, PIXELS, 10, **settings | {"sigma": 1.2 * sigma})


def test_the_mean_alone_needs_no_sampler():
    task = task_of(Denoise, DDIM(), Gaussian(Linear(), 0.1), PIXELS, sigma=0.1, results=0)
    assert task.count == 1
    assert task.draw([0], CPU).shape == (1, 1, 2, 2)


# --- trained models, the command, and files

TASKS = {
    "generate": (),
    "inpaint": ("task.resample=2", "task.results=2"),
    "inpaint_moments": ("task.rule=moments", "task.results=2"),
    "interpolate": ("task.pairs=1", "task.frames=3", "labels=1"),
    "interpolate_labels": ("task.pairs=1", "task.frames=3"),
    "interpolate_encoded": ("task.image=[0,1]", "task.frames=3"),
    "interpolate_noised": ("task.image=[0,1]", "task.frames=3", "task.strength=0.5"),
    "variations": ("task.results=1",),
    "denoise": ("task.results=1",),
    "denoise_mean": ("task.results=0",),
    "trajectory": ("task.ways=1", "task.frames=3"),
}
MODELS = ("ddpm", "ncsnv2", "flow")
SAMPLERS = (*ODE, "rk45", *RANDOM, "pc", "heun_churn")
CANNOT = {
    "inpaint": {"rk45"},
    "inpaint_moments": {"rk45"},
    "interpolate_labels": {"rk45"},
    "trajectory": {"rk45"},
    "interpolate_encoded": {*RANDOM, "pc", "heun_churn"},
    "denoise": {*ODE, "rk45", "langevin", "consistent", "pc", "heun_churn"},
}


@cache
def composed(task: str) -> Sample:
    words = f"task={task.partition('_')[0]}", "num_samples=3", "metrics=[]", *TASKS[task]
    return tree("sample", *words)


def chosen(name: str) -> dict[str, Any]:
    """A sampler's settings as the config gives them, in 4 steps or so."""
    sampler: Any = RK45(tolerance=0.03) if name == "rk45" else EVERY[name]
    room = type(sampler).__module__.rpartition(".")[2]
    return {"name": room, **asdict(sampler), "steps": None if name == "rk45" else 4}


def images_of(config: Sample) -> tuple[Task, Tensor]:
    """What a configuration asks for, made."""
    task, _ = request_of(config).task(CPU)
    return task, task(range(task.count), CPU)


@pytest.mark.parametrize(
    ("model", "sampler", "start"),
    [("ddpm", "ddim", "prior"), ("ncsnv2", "ddim", "shell"), ("ncsnv2", "langevin", "uniform")],
)
def test_a_network_that_is_not_told_starts_on_a_shell(model, sampler, start, request):
    words = f"checkpoint={request.getfixturevalue(model)}", f"sampler={sampler}", "steps=4"
    asked = request_of(tree("sample", *words, "num_samples=3"))
    assert asked.plan.start_name == start
    made, _ = asked.task(CPU)
    assert made.start is STARTS[start]


# A transformer that gives the image: its tasks by a deterministic and by a random sampler.
EACH = [*product(MODELS, SAMPLERS), ("jit", "heun"), ("jit", "ddpm")]


@AMONG("task", TASKS)
@AMONG(("model", "name"), EACH)
def test_every_task_with_every_sampler_on_every_family(model, name, task, request):
    """It makes its images, or says in one line which other way there is."""
    run = request.getfixturevalue(model)
    config = composed(task).replaced(checkpoint=str(run), sampler=chosen(name))
    if name in CANNOT.get(task, ()):
        with pytest.raises(UsageError, match="take"):
            images_of(config)
        return
    made, images = images_of(config)
    assert len(images) == made.count > 0
    assert images.dtype == torch.uint8
    if isinstance(made, Inpaint):
        given = made.given.pixels.expand_as(images)
        assert torch.equal(images[..., :4], given[..., :4])


def test_the_command_writes_pictures_and_sums_them_up(ddpm):
    """What stands in the folder that it prints; and a repeated command makes nothing anew."""
    words = ("sample", f"checkpoint={ddpm}", "task=inpaint", "task.image=0:2", "task.results=3")
    words = (*words, "steps=4", "task.mask=center")
    done = worked(here(ddpm, *words))
    folder = ddpm / done.folder
    with np.load(folder / "samples.npz") as arrays:
        pixels, labels = arrays["arr_0"], arrays["arr_1"]
    truth = Digits().split("test")
    assert labels.tolist() == truth.labels[:2].repeat_interleave(3).tolist()
    assert pixels.shape == (6, 8, 8, 1)
    mask = np.asarray(Image.open(folder / "mask.png"))
    assert (mask[2:6, 2:6] == 255).all()
    assert mask.sum() == 255 * 16
    known = mask == 0
    given = truth.pixels[:2].repeat_interleave(3, 0)[:, 0].numpy()
    assert (pixels[..., 0][:, known] == given[:, known]).all()
    single = np.asarray(Image.open(folder / "images" / "001_02.png"))
    assert (single == pixels[5, ..., 0]).all()
    before = (folder / "samples.npz").stat().st_mtime_ns
    again = ddpm / worked(here(ddpm, *words)).folder
    assert (again / "samples.npz").stat().st_mtime_ns == before


def test_an_edit_is_judged_by_the_class_that_it_keeps(ddpm):
    """Pictures that lost one pixel are as recognisable as whole ones; those that lost all, less.

    A distance to the law of the data would say nothing of them, and there is none.
    """
    words = ("sample", f"checkpoint={ddpm}", "task=inpaint", "task.image=0:40", "task.results=1")
    words = (*words, "steps=2", "metrics=[fid,accuracy]")
    lost = Image.new("1", (8, 8), 1)
    lost.save(ddpm / "all.png")
    lost.paste(0, (1, 0, 8, 8))
    lost.paste(0, (0, 1, 8, 8))
    lost.save(ddpm / "one.png")
    seen = {}
    for mask in ("one.png", "all.png"):
        folder = ddpm / worked(here(ddpm, *words, f"task.mask={mask}")).folder
        with (folder / "table.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert row["n"] == "40"
        assert not row.get("fid")
        seen[mask] = float(row["accuracy"])
    assert seen["one.png"] > 0.9
    assert seen["all.png"] < 0.5


def test_the_command_writes_strips_and_animations(ncsnv2):
    words = ("task=interpolate", "task.pairs=2", "task.frames=4", "sampler=langevin", "steps=4")
    folder = ncsnv2 / worked(here(ncsnv2, "sample", f"checkpoint={ncsnv2}", *words)).folder
    assert {"samples.png", "strip_000.png", "strip_001.png"} <= {p.name for p in folder.iterdir()}
    with Image.open(folder / "strip_001.gif") as animation:
        assert getattr(animation, "n_frames", 0) == 6


def test_a_changed_picture_is_another_cell(ddpm, tmp_path):
    """Under the same name."""
    folders = set()
    for value in (0, 200):
        Image.new("L", (8, 8), value).save(tmp_path / "own.png")
        words = (f"task.image={tmp_path / 'own.png'}", "task.results=1", "steps=2")
        done = worked(here(ddpm, "sample", f"checkpoint={ddpm}", "task=inpaint", *words))
        folders.add(json.loads((ddpm / done.folder / "cells.json").read_text())["cells"][0])
    assert len(folders) == 2


@pytest.fixture
def inputs():
    """The inputs of a model of digits, 8x8 and grey."""
    recipe = {"dataset": {"name": "digits"}}
    return CheckpointInputs(
        Checkpoint(Path("x"), "", 0, recipe, Range(), (1, 8, 8), (), {"raw": {}})
    )


def test_pictures_by_number_are_those_of_the_test_set(inputs):
    truth = Digits().split("test")
    found = inputs.load([3, "5:7"], False)
    assert torch.equal(found.pixels, truth.pixels[[3, 5, 6]])
    assert found.labels.tolist() == truth.labels[[3, 5, 6]].tolist()
    for wrong in (len(truth), -1, "3:3"):
        with pytest.raises(UsageError, match="image"):
            inputs.load(wrong, False)


def test_files_are_converted_only_when_asked(inputs, tmp_path):
    grey = torch.arange(64, dtype=torch.uint8).reshape(8, 8)
    path = str(tmp_path / "a.png")
    Image.fromarray(grey.numpy()).save(path)
    found = inputs.load(path, False)
    assert torch.equal(found.pixels, grey[None, None])
    assert found.labels is None
    for picture in (Image.new("L", (9, 8)), Image.new("RGB", (8, 8)), Image.new("1", (8, 8))):
        picture.save(path)
        with pytest.raises(UsageError, match=r"task\.resize=true"):
            inputs.load([0, path], False)
        assert inputs.load([0, path], True).pixels.shape == (2, 1, 8, 8)
    Path(path).write_text("no picture")
    with pytest.raises(UsageError, match="not a picture"):
        inputs.load(path, True)
    with pytest.raises(UsageError, match="no file"):
        inputs.load(str(tmp_path / "b.png"), True)


def test_grey_files_are_what_colorizing_wants(tmp_path):
    path = str(tmp_path / "a.png")
    Image.new("L", (8, 8), 77).save(path)
    recipe = {"dataset": {"name": "cifar10"}}
    checkpoint = Checkpoint(Path("x"), "", 0, recipe, Range(), (3, 8, 8), (), {"raw": {}})
    inputs = CheckpointInputs(checkpoint)
    assert (inputs.load(path, False, grey=True).pixels == 77).all()
    with pytest.raises(UsageError, match="RGB"):
        inputs.load(path, False)


def test_masks_from_files(inputs, tmp_path):
    """White is lost; greys and other sizes only with resize."""
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    mask[2:4] = 255
    path = str(tmp_path / "mask.png")
    Image.fromarray(mask.numpy()).save(path)
    assert torch.equal(inputs.mask(path, False), mask > 0)
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8).reshape(8, 8)
    for picture in (Image.fromarray(mask.numpy()).resize((16, 16)), Image.fromarray(ramp.numpy())):
        picture.save(path)
        with pytest.raises(UsageError, match=r"task\.resize=true"):
            inputs.mask(path, False)
        assert inputs.mask(path, True).shape == (8, 8)
    assert torch.equal(inputs.mask(path, True), ramp > 127)


def test_a_mask_covers_what_it_was_drawn_over(inputs, tmp_path):
    """Of a wide picture, and of one that a tag turns: both files go through the same steps."""
    wide, spot = torch.zeros(16, 48, dtype=torch.uint8), (slice(6, 10), slice(18, 22))
    wide[spot] = 255
    corner, tag = torch.zeros(8, 8, dtype=torch.uint8), Image.Exif()
    corner[:3, :2] = 255
    tag[0x112] = 6
    for drawn, more in ((wide, {}), (corner, {"exif": tag})):
        for name in ("picture.png", "mask.png"):
            Image.fromarray(drawn.numpy()).save(tmp_path / name, **more)
        shown = inputs.load(str(tmp_path / "picture.png"), True).pixels[0, 0]
        lost = inputs.mask(str(tmp_path / "mask.png"), True)
        assert torch.equal(shown > 127, lost)
        assert lost.any()
    assert lost.nonzero().tolist() == [[r, c] for r in (0, 1) for c in (5, 6, 7)]


def test_a_mask_of_zeros_and_ones_is_black_and_white(inputs, tmp_path):
    path, drawn = str(tmp_path / "mask.png"), np.zeros((8, 8), np.uint8)
    drawn[:3, :3] = 1
    for values in (drawn, drawn.astype(np.uint16), 255 * drawn, 65535 * drawn.astype(np.uint16)):
        Image.fromarray(values).save(path)
        for resize in (False, True):
            assert torch.equal(inputs.mask(path, resize), torch.from_numpy(drawn > 0))


def test_what_a_mask_cannot_mean_is_refused(inputs, tmp_path):
    path, erased = str(tmp_path / "mask.png"), np.full((8, 8, 4), 255, np.uint8)
    Image.fromarray(erased).save(path)
    assert inputs.mask(path, False).all()  # nothing of it is transparent
    erased[:, :4, 3] = 0
    Image.fromarray(erased).save(path)
    with pytest.raises(UsageError, match="transparent in places"):
        inputs.mask(path, True)
    Image.new("L", (8, 8)).save(path)
    with pytest.raises(UsageError, match="loses nothing"):
        inputs.mask(path, True)


def test_pictures_that_never_end_are_refused_at_once(inputs, tmp_path):
    """Pipes and devices; a range of numbers far beyond the test set."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zeros.png"):
        for read in (inputs.load, inputs.mask):
            with pytest.raises(UsageError, match="not a regular file"):
                read(str(tmp_path / name), True)
    with pytest.raises(UsageError, match="has images 0 to 358"):
        inputs.load("0:1000000000000", True)


@pytest.mark.parametrize("task", ["inpaint", "inpaint_moments", "denoise_mean", "variations"])
def test_no_task_makes_images_of_what_is_not_finite(task, ddpm):
    made, _ = request_of(composed(task).replaced(checkpoint=str(ddpm))).task(CPU)
    made = replace(made, denoiser=deepcopy(made.denoiser))  # others of this process share it
    for weights in made.denoiser.parameters():
        weights.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        made(range(made.count), CPU)
