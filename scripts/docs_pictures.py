"""The pictures of docs/ that need no training, drawn by the program's own classes.

    python scripts/docs_pictures.py              # all of them, into docs/images
    python scripts/docs_pictures.py samplers     # those whose names are given

Exact denoisers stand in for networks: of a Gaussian, and of the embedded digits themselves.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from diffgen.config.build import build, names
from diffgen.dataset.digits import Digits
from diffgen.dataset.pixels import Range, grid, save_png
from diffgen.denoiser import Denoiser
from diffgen.evaluation.frechet import FeatureStats, frechet
from diffgen.evaluation.plot import COLOURS
from diffgen.sampler import Sampler
from diffgen.sampler.base import Noise
from diffgen.sampler.ddim import DDIM
from diffgen.sampler.ddpm import DDPM
from diffgen.sampler.heun import Heun
from diffgen.schedule import Schedule
from diffgen.schedule.base import match
from diffgen.schedule.cosine import Cosine
from diffgen.schedule.spacing import SPACINGS, times
from diffgen.schedule.vp import VP
from diffgen.training.ema import EmaSettings
from diffgen.training.weighting import snr_of

DOCS = Path(__file__).resolve().parents[1] / "docs"
IMAGES = DOCS / "images"
T = torch.linspace(0, 1, 401, dtype=torch.float64)[1:]
STAGES = [k / 10 for k in range(11)]  # of t
STEPS = (5, 8, 12, 20, 32, 50, 80, 128, 200)
VARIANCE = torch.logspace(-2, 0, 9, dtype=torch.float64).reshape(1, 1, 1, 9)


class Gaussian(Denoiser):
    """E[x0 | x_t] for independent pixels x0 ~ N(0, VARIANCE), one of each variance."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = self.schedule.at(t, x_t)
        return alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * x_t


class TrainingSet(Denoiser):
    """E[x0 | x_t] where x0 is one of given images (N, C, H, W): the optimum of the loss."""

    def __init__(self, schedule: Schedule, images: Tensor) -> None:
        super().__init__()
        self.schedule, self.images = schedule, images

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = self.schedule.at(t, x_t)
        rows = self.images.flatten(1)
        distance = torch.cdist(x_t.flatten(1), alpha.reshape(-1, 1)[:1] * rows)
        share = (-(distance**2) / (2 * sigma.reshape(-1, 1)[:1] ** 2)).softmax(1)
        return (share @ rows).reshape(x_t.shape)


def schedules() -> None:
    """alpha, sigma and log-SNR of every schedule."""
    with figure("schedules", 3) as (alpha, sigma, log_snr):
        for k, name in enumerate(sorted(names_of("schedule"))):
            schedule = schedule_of(name)
            dashes = (0, (4, 3)) if schedule.levels is None else "-"  # vp lies on linear
            style = {"color": COLOURS[k], "label": name, "lw": 1.5, "ls": dashes}
            alpha.plot(T, schedule.alpha(T), **style)
            sigma.plot(T, schedule.sigma(T), **style)
            log_snr.plot(T, schedule.log_snr(T), **style)
        sigma.set_yscale("log")
        alpha.set(title="alpha(t)", xlabel="t")
        sigma.set(title="sigma(t)", xlabel="t", ylim=(3e-3, 100))
        log_snr.set(title="ln(alpha / sigma)", xlabel="t", ylim=(-11, 7))
        legend(log_snr)


def spacings() -> None:
    """Where ten steps stop, over t and over log-SNR, on the cosine schedule."""
    schedule = Cosine()
    with figure("spacings", 2, height=2.6) as axes:
        for k, name in enumerate(reversed(SPACINGS)):
            stops = times(schedule, name, 10)[:-1]
            axes[0].plot(stops, torch.full_like(stops, k), "o", color=COLOURS[k], ms=5)
            log_snr = schedule.log_snr(stops)
            axes[1].plot(log_snr, torch.full_like(stops, k), "o", color=COLOURS[k], ms=5)
        for panel in axes:
            panel.set_yticks(range(len(SPACINGS)), list(reversed(SPACINGS)))
            panel.set_ylim(-0.6, len(SPACINGS) - 0.4)
        axes[0].set(xlabel="t", xlim=(1.03, -0.03))
        axes[1].set(xlabel="ln(alpha / sigma)")


def samplers() -> None:
    """Error against evaluations where the denoiser is exact: of the solution, and of the spread.

    Nine pixels of variances 0.01 to 1 on the VP schedule. Left: the error at t_min in steps even
    in log-SNR, of the image that starts from one deviation. Right: the error of the deviation at
    the sampler's own spacing; nothing is random, since these samplers are linear in their noise.
    """
    exact = {name: build("sampler", {"name": name}) for name in ODE}
    with figure("samplers", 2, height=3.4) as (left, right):
        for k, (name, sampler) in enumerate(exact.items()):
            nfe, error = zip(*(ode_error(sampler, steps) for steps in STEPS), strict=True)
            left.loglog(nfe, error, ".-", color=COLOURS[k], lw=1.3, label=name)
        for k, (name, sampler) in enumerate(SDE.items()):
            nfe, error = zip(*(spread_error(sampler, steps) for steps in STEPS), strict=True)
            right.loglog(nfe, error, ".-", color=COLOURS[k], lw=1.3, label=name)
        left.set(xlabel="evaluations", title="samplers of the ODE: RMS error of x")
        right.set(xlabel="evaluations", title="samplers with noise: error of the deviation")
        for panel in (left, right):
            legend(panel)


ODE = ("ddim", "euler", "heun", "dpmpp_2m", "dpmpp_3m", "deis", "unipc")
SDE: dict[str, Sampler] = {
    "ddpm": DDPM(),
    "ddpm, fixedlarge": DDPM("fixedlarge"),
    "ddim, eta=1": DDIM(eta=1.0),
    "dpmpp_2m_sde": build("sampler", {"name": "dpmpp_2m_sde"}),
    "consistent": build("sampler", {"name": "consistent"}),
    "euler_maruyama": build("sampler", {"name": "euler_maruyama"}),
    "langevin, inner=5": build("sampler", {"name": "langevin"}),
    "heun, churn=10": Heun(churn=10.0),
}


def ode_error(sampler: Sampler, steps: int) -> tuple[int, float]:
    """(NFE, RMS error at t_min) of a sampler on the exact ODE, in steps even in log-SNR."""
    denoiser, count = counted(Gaussian(VP()))
    stops = times(denoiser.schedule, "log_snr", steps + 1)[:-1]
    start, end = (deviation(denoiser.schedule, t) for t in (stops[0], stops[-1]))
    found = sampler(denoiser, start, stops, None, torch.zeros_like)
    return len(count), rms(found - end)


def spread_error(sampler: Sampler, steps: int) -> tuple[int, float]:
    """(NFE, RMS error of the deviation at t = 0), by superposition.

    Row 0 of the batch carries the start alone, row k the k-th draw of noise alone.
    """
    denoiser, count = counted(Gaussian(VP()))
    stops = times(denoiser.schedule, sampler.spacing, steps)
    x = torch.zeros(6 * steps + 1, 1, 1, VARIANCE.numel(), dtype=torch.float64)
    x[0] = denoiser.schedule.sigma(stops[0])
    found = sampler(denoiser, x, stops, None, one_each())
    return len(count), rms(found.square().sum(0).sqrt() - VARIANCE[0].sqrt())


def one_each() -> Noise:
    """Noise whose k-th draw is 1 in row k and 0 elsewhere."""
    calls: list[int] = []

    def noise(like: Tensor) -> Tensor:
        calls.append(0)
        unit = torch.zeros_like(like)
        unit[len(calls)] = 1
        return unit

    return noise


def counted(denoiser: Denoiser) -> tuple[Denoiser, list[int]]:
    """The denoiser, and a list that grows by one with each of its calls."""
    calls: list[int] = []
    denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    return denoiser, calls


def deviation(schedule: Schedule, t: Tensor) -> Tensor:
    """Of x_t where x0 ~ N(0, VARIANCE), (1, 1, 1, 9)."""
    return (schedule.alpha(t) ** 2 * VARIANCE + schedule.sigma(t) ** 2).sqrt()


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def models() -> None:
    """The predictions' coefficients of the network, and the weightings, against log-SNR."""
    schedule = VP()
    alpha, sigma, log_snr = schedule.alpha(T), schedule.sigma(T), schedule.log_snr(T)
    with figure("models", 2, height=3.2) as (left, right):
        for k, name in enumerate(names("prediction")):
            prediction = build("prediction", {"name": name})
            _, c_out, _ = prediction.coefficients(alpha, sigma)
            left.semilogy(log_snr, c_out.abs(), color=COLOURS[k], lw=1.5, label=name)
        for k, name in enumerate(names("weighting")):
            weight = build("weighting", {"name": name})(snr_of(alpha, sigma), T, schedule)
            right.semilogy(log_snr, weight, color=COLOURS[k], lw=1.5, label=name)
        left.set(title="|c_out|: error of x0 per error of F", ylim=(1e-3, 1e3))
        left.set(xlabel="ln(alpha / sigma), VP schedule")
        right.set(title="weight of the squared error of eps", ylim=(1e-3, 1e4))
        right.set(xlabel="ln(alpha / sigma), VP schedule")
        for panel in (left, right):
            legend(panel)


def averages() -> None:
    """What share of an average the weights of each past step hold after 2000 steps."""
    last = 2000
    profiles = {
        "decay 0.999 (ncsnv2)": EmaSettings(decay=0.999, warmup=False),
        "decay 0.999, warmup (ncsnv2_warm)": EmaSettings(decay=0.999),
        "decay 0.9999, warmup (ddpm)": EmaSettings(decay=0.9999),
        "decay 0.99929, ramp 0.05 (edm)": EmaSettings(decay=0.99929, warmup=False, ramp=0.05),
        "width 0.1 (EDM2)": EmaSettings(width=0.1),
    }
    with figure("averages", 1, height=2.6) as (panel,):
        for k, (name, profile) in enumerate(profiles.items()):
            beta = torch.tensor([profile.beta()(n) for n in range(1, last + 1)])
            after = torch.cat([beta.flip(0).cumprod(0).flip(0)[1:], torch.ones(1)])
            share = (1 - beta) * after
            panel.plot(range(1, last + 1), 1000 * share, color=COLOURS[k], lw=1.5, label=name)
        panel.set(xlabel="step", ylabel="share of the average, 1/1000", ylim=(0, 6))
        panel.legend(fontsize=7, frameon=False)


def floor() -> None:
    """The Frechet distance of n true samples to their own law, for 16, 64 and 256 features."""
    generator = torch.Generator().manual_seed(0)
    counts = (500, 1000, 2000, 5000, 10000)
    with figure("floor", 1, height=2.6) as (panel,):
        for k, dim in enumerate((16, 64, 256)):
            draw = torch.randn(20000, dim, generator=generator, dtype=torch.float64)
            reference = FeatureStats.of(draw[10000:])
            distance = [frechet(FeatureStats.of(draw[:n]), reference) for n in counts]
            panel.loglog(counts, distance, "o-", color=COLOURS[k], ms=4, label=f"{dim} features")
        panel.set(xlabel="n, images counted", ylabel="Frechet distance", xticks=counts)
        panel.set_xticks(counts, [f"{n:,}" for n in counts])
        panel.minorticks_off()
        panel.legend(fontsize=7, frameon=False)


def noising() -> None:
    """Three digits on their way to noise, t = 0 to 1 from left to right: cosine schedule."""
    schedule, images = Cosine(), digits()[0]
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    states = [images if t == 0 else noised(schedule, images, t, eps) for t in STAGES]
    sheet("noising", states)


def denoised() -> None:
    """The same digits under noise, and below each the exact denoiser's estimate."""
    schedule, (images, training) = Cosine(), digits()
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    denoiser = TrainingSet(schedule, training)
    columns = []
    for t in STAGES[1:]:
        x_t = noised(schedule, images, t, eps)
        x0 = denoiser(x_t, torch.tensor(t, dtype=torch.float64))
        columns.append(torch.stack([x_t, x0], 1).flatten(0, 1)[:4])
    sheet("estimates", columns)


def data() -> None:
    """Ten of each class of the embedded digits, a column a class."""
    images = Digits().split("train")
    assert images.labels is not None
    rows = [(images.labels == k).nonzero()[:6, 0] for k in range(10)]
    order = torch.stack(rows, 1).flatten()
    picture = grid(images.at(order), columns=10)
    save_png(picture.repeat_interleave(5, -1).repeat_interleave(5, -2), IMAGES / "digits.png")


def own_sampler() -> None:
    """The sampler of docs/extending.md beside the program's own, on an exact denoiser."""
    text = (DOCS / "extending.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Midpoint" in b)
    space: dict[str, object] = {"__name__": "midpoint"}
    exec(block, space)
    midpoint: Sampler = space["Midpoint"]()  # type: ignore[operator]
    shown = {"euler": build("sampler", {"name": "euler"}), "heun": Heun(), "midpoint": midpoint}
    with figure("midpoint", 1, height=2.6) as (panel,):
        for k, (name, sampler) in enumerate(shown.items()):
            nfe, error = zip(*(ode_error(sampler, steps) for steps in STEPS), strict=True)
            panel.loglog(nfe, error, "o-", color=COLOURS[k], ms=4, lw=1.3, label=name)
        panel.set(xlabel="evaluations", ylabel="RMS error of x")
        panel.legend(fontsize=8, frameon=False)


def names_of(group: str) -> list[str]:
    """The schedules that a class of their own draws; the ladder of NCSNv2 is geometric."""
    skipped = {"base", "discrete", "ramp", "spacing", "ncsnv2"}
    return [name for name in names(group) if name not in skipped]


def schedule_of(name: str) -> Schedule:
    more = {"sigma_max": 50.0, "levels": 232} if name == "geometric" else {}
    return build("schedule", {"name": name, **more})


def digits() -> tuple[Tensor, Tensor]:
    """Three digits (3, 1, 8, 8) and the training set (N, 1, 8, 8) in [-1, 1]."""
    images = Digits().split("train")
    pixels = Range().to_model(images.at(torch.arange(len(images))))
    assert images.labels is not None
    return torch.stack([pixels[images.labels == k][0] for k in (3, 0, 7)]), pixels


def noised(schedule: Schedule, x0: Tensor, t: float, eps: Tensor) -> Tensor:
    time = torch.tensor(t, dtype=torch.float64)
    return match(schedule.alpha(time), x0) * x0 + match(schedule.sigma(time), x0) * eps


def sheet(name: str, columns: list[Tensor]) -> None:
    """A picture whose k-th column holds the images columns[k] (rows, 1, 8, 8)."""
    order = torch.stack(columns, 1).flatten(0, 1)
    picture = grid(Range().to_uint8(order), columns=len(columns))
    save_png(picture.repeat_interleave(7, -1).repeat_interleave(7, -2), IMAGES / f"{name}.png")


def legend(panel: Axes) -> None:
    """Beside the panel, where it hides nothing."""
    panel.legend(fontsize=7, frameon=False, bbox_to_anchor=(1.0, 1.02), loc="upper left")


@contextmanager
def figure(name: str, panels: int, height: float = 3.0) -> Iterator[list[Axes]]:
    """Axes side by side, written to docs/images/<name>.png in the end."""
    found = Figure(figsize=(4.0 * panels + (1.5 if panels == 1 else 0), height))
    FigureCanvasAgg(found)
    found.set_layout_engine("constrained")
    axes = [found.add_subplot(1, panels, k + 1) for k in range(panels)]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25, lw=0.5)
        panel.tick_params(labelsize=8)
    yield axes
    for panel in axes:
        panel.title.set_fontsize(9)
    found.savefig(IMAGES / f"{name}.png", dpi=110, pil_kwargs={"optimize": True})


PICTURES: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        *(schedules, spacings, samplers, models, averages, floor),
        *(noising, denoised, data, own_sampler),
    )
}


def main(chosen: list[str]) -> None:
    for name in chosen or PICTURES:
        PICTURES[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
