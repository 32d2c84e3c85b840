"""The same steps as diffusers' schedulers, on the same network, times and noise."""

import pytest
import torch
from analytic import silent
from torch import Tensor, nn

from diffgen.denoiser import Preconditioned
from diffgen.denoiser.noise_input import level
from diffgen.denoiser.prediction import Eps
from diffgen.sampler import Sampler
from diffgen.sampler.base import Noise
from diffgen.sampler.ddim import DDIM
from diffgen.sampler.ddpm import DDPM
from diffgen.sampler.deis import DEIS
from diffgen.sampler.dpmpp_2m import DPMpp2M
from diffgen.sampler.dpmpp_2m_sde import DPMpp2MSDE
from diffgen.sampler.dpmpp_3m import DPMpp3M
from diffgen.sampler.euler import Euler
from diffgen.sampler.heun import Heun
from diffgen.sampler.unipc import UniPC
from diffgen.schedule.cosine import Cosine
from diffgen.schedule.linear import Linear
from diffgen.schedule.quadratic import Quadratic
from diffgen.schedule.sigmoid_beta import SigmoidBeta

diffusers = pytest.importorskip("diffusers")


class Curved(nn.Module):
    """A network like none: smooth in x and in the level, the same for both programs."""

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        c_noise = c_noise.reshape(-1, 1, 1, 1)
        return torch.tanh(0.8 * x + 0.3 * x.roll(1, -1)) * (0.5 + c_noise / 2000) + 0.1 * x.cos()


DENOISER = Preconditioned(Curved(), Linear(), Eps(), level)


def start() -> Tensor:
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).double()


def theirs(scheduler, steps: int, scaled: bool = False, **options) -> tuple[list[Tensor], Tensor]:
    """diffusers' states x after each call, and the times (steps + 1,) that it visits.

    scaled: the scheduler carries x / alpha, and the model sees x.
    """
    scheduler.alphas_cumprod = Linear().alpha(torch.arange(1, 1001).double() / 1000) ** 2
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "sigmas"):  # in float64, where they keep float32
        exact = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
        scheduler.sigmas = torch.cat([exact[scheduler.timesteps.long()], torch.zeros(1)])
    x, states = start() * (scheduler.init_noise_sigma if scaled else 1), []
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t)
        eps = Curved()(seen, t.double().expand(len(x)))
        x = scheduler.step(eps, t, x, **options).prev_sample
        states.append(x)
    levels = torch.unique(scheduler.timesteps).flip(0).double()
    return states, torch.cat([(levels + 1) / 1000, torch.zeros(1)])


def ours(sampler: Sampler, times: Tensor, noise=silent) -> list[Tensor]:
    with torch.no_grad():
        return list(sampler.trajectory(DENOISER, start(), times.double(), None, noise))


def stream(dtype: torch.dtype = torch.float64) -> Noise:
    """Noise as diffusers draws it: one generator for the batch."""
    generator = torch.Generator().manual_seed(7)
    return lambda like: torch.randn(like.shape, generator=generator, dtype=dtype).to(like)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a.double(), b.double(), atol=1e-5, rtol=1e-5)


SPACINGS = pytest.mark.parametrize("spacing", ["trailing", "leading"])


@SPACINGS
@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm(variance, steps, spacing):
    scheduler = diffusers.DDPMScheduler(
        variance_type=variance, clip_sample=False, timestep_spacing=spacing
    )
    generator = torch.Generator().manual_seed(7)
    states, times = theirs(scheduler, steps, generator=generator)
    # Unless its last time is level 0, diffusers' fixed_large adds noise to the finished image.
    last = -2 if (variance, spacing) == ("fixed_large", "trailing") else -1
    close(ours(DDPM(variance.replace("_", "")), times, stream())[last], states[last])


@SPACINGS
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta, spacing):
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing=spacing)
    generator = torch.Generator().manual_seed(7)
    states, times = theirs(scheduler, 20, eta=eta, generator=generator)
    close(ours(DDIM(eta), times, stream())[-1], states[-1])


@SPACINGS
def test_euler(spacing):
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing=spacing)
    states, times = theirs(scheduler, 20, scaled=True)
    beginning = start() * Linear().alpha(times[0]) * scheduler.init_noise_sigma
    found = list(Euler().trajectory(DENOISER, beginning, times.double(), None, silent))
    close(found[-1], states[-1])


def test_heun():
    scheduler = diffusers.HeunDiscreteScheduler(
        timestep_spacing="trailing", beta_start=1e-4, beta_end=0.02
    )
    states, times = theirs(scheduler, 20, scaled=True)
    beginning = start() * Linear().alpha(times[0]) * scheduler.init_noise_sigma
    found = list(Heun().trajectory(DENOISER, beginning, times.double(), None, silent))
    close(found[-1], states[-1])


@SPACINGS
@pytest.mark.parametrize("steps", [8, 20])
def test_dpmpp_2m(steps, spacing):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=2, timestep_spacing=spacing, final_sigmas_type="zero"
    )
    states, times = theirs(scheduler, steps)
    close(ours(DPMpp2M(), times)[-1], states[-1])


def test_dpmpp_2m_sde():
    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=2, algorithm_type="sde-dpmsolver++", timestep_spacing="trailing"
    )
    generator = torch.Generator().manual_seed(7)
    states, times = theirs(scheduler, 20, generator=generator)
    close(ours(DPMpp2MSDE(), times, stream(torch.float32))[-1], states[-1])


class Mended(diffusers.DPMSolverMultistepScheduler):
    """diffusers' third-order update with the 2 of the curvature that it omits."""

    def multistep_dpm_solver_third_order_update(self, outputs, *args, sample, **kwargs):
        i = self.step_index
        points = [self._sigma_to_alpha_sigma_t(self.sigmas[k]) for k in (i + 1, i, i - 1, i - 2)]
        end, *past = [a.log() - s.log() for a, s in points]
        h = end - past[0]
        slopes = [
            (outputs[-1 - k] - outputs[-2 - k]) * h / (past[k] - past[k + 1]) for k in (0, 1)
        ]
        missing = (slopes[0] - slopes[1]) * h / (past[0] - past[2])
        factor = points[0][0] * (((-h).exp() - 1 + h) / h**2 - 0.5)
        parent = super().multistep_dpm_solver_third_order_update
        return parent(outputs, *args, sample=sample, **kwargs) - factor * missing


@SPACINGS
def test_dpmpp_3m(spacing):
    scheduler = Mended(solver_order=3, timestep_spacing=spacing, final_sigmas_type="zero")
    states, times = theirs(scheduler, 20)
    close(ours(DPMpp3M(), times)[-1], states[-1])


@SPACINGS
@pytest.mark.parametrize("kernel", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [5, 20])
def test_unipc(steps, order, kernel, spacing):
    scheduler = diffusers.UniPCMultistepScheduler(
        solver_order=order, solver_type=kernel, timestep_spacing=spacing, final_sigmas_type="zero"
    )
    states, times = theirs(scheduler, steps)
    last = -1 if kernel == "bh2" else -2  # with bh1 diffusers' step to the image is not a number
    close(ours(UniPC(order, kernel), times)[last], states[last])


def test_unipc_without_corrector():
    scheduler = diffusers.UniPCMultistepScheduler(
        solver_order=3, timestep_spacing="trailing", disable_corrector=list(range(20))
    )
    states, times = theirs(scheduler, 20)
    close(ours(UniPC(3, corrector=False), times)[-1], states[-1])


@pytest.mark.parametrize("order", [2, 3])
def test_deis(order):
    scheduler = diffusers.DEISMultistepScheduler(solver_order=order, timestep_spacing="trailing")
    states, times = theirs(scheduler, 12)
    found = ours(DEIS(order), times)
    for k in range(10):  # diffusers lowers the order of the last two of fewer than 15 steps
        close(found[k], states[k])


@pytest.mark.parametrize(
    ("name", "schedule"),
    [("linear", Linear()), ("squaredcos_cap_v2", Cosine()), ("scaled_linear", Quadratic()),
     ("sigmoid", SigmoidBeta()), ("linear", Linear(levels=100))],
)  # fmt: skip
def test_betas(name, schedule):
    scale = 1000 / schedule.levels
    scheduler = diffusers.DDPMScheduler(
        schedule.levels, beta_schedule=name, beta_start=1e-4 * scale, beta_end=0.02 * scale
    )
    torch.testing.assert_close(schedule.betas().float(), scheduler.betas, atol=1e-6, rtol=1e-4)


def test_zero_snr():
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    levels = torch.arange(1, 1001).double() / 1000
    alpha = Linear(zero_snr=True).alpha(levels)
    torch.testing.assert_close(alpha.float() ** 2, scheduler.alphas_cumprod, atol=2e-6, rtol=0)
