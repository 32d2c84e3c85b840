"""Images of three papers' own samplers beside ours, in grey levels: a table of docs/results.md.

    python scripts/original_samplers.py edm CLONE
    python scripts/original_samplers.py score_sde CLONE
    python scripts/original_samplers.py adm CLONE

CLONE is a clone of NVlabs/edm, yang-song/score_sde_pytorch or openai/guided-diffusion, whose code
makes a small network with random weights and draws from it; we import that network's file and draw
at the same times from the same noise. Their code runs as it is, but for CUDA extensions.
"""

import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from diffgen.config.recipe import DenoiserRecipe, recipe_of
from diffgen.denoiser.base import Clipped, Denoiser
from diffgen.interop.convert import convert
from diffgen.sampler.ddim import DDIM
from diffgen.sampler.heun import Heun
from diffgen.sampler.pc import PC
from diffgen.schedule.spacing import times

SIZE, COUNT = 16, 2
Pair = tuple[str, Tensor, Tensor]


def main(kind: str, clone: str) -> None:
    sys.path.insert(0, clone)
    torch.manual_seed(0)
    for name, theirs, ours in SOURCES[kind]():
        white = 3 * theirs.std()  # networks of random weights keep to no range of their own
        grey = [(255 * (x / white / 2 + 0.5)).round().clamp(0, 255) for x in (theirs, ours)]
        apart = (grey[0] - grey[1]).abs()
        most, share = apart.max().item(), (apart > 0).double().mean().item()
        print(f"| {name} | {most:.0f} | {share:.5f} | {grey[0].std().item():.0f} |", flush=True)


def randomised(network: nn.Module) -> nn.Module:
    """The network with no weight at zero, where papers begin: small, so that it is no noise."""
    for value in network.parameters():
        if value.requires_grad:
            value.data += 0.05 * torch.randn_like(value)
    return network.eval()


def imported(kind: str, write: Callable[[Path], Any], settings: dict[str, Any]) -> Denoiser:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "released"
        write(path)
        found = convert(kind, path, SIZE, settings)
    recipe = recipe_of(found.recipe)
    assert isinstance(recipe, DenoiserRecipe)
    denoiser = recipe.denoiser(found.shape, len(found.classes))
    denoiser.network.load_state_dict(found.ema or found.raw)
    return denoiser.eval()


def stream(seed: int) -> Callable[[Tensor], Tensor]:
    """Noise for both, drawn in one order."""
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.empty(like.shape).normal_(generator=generator).to(like)


def late(noise: Callable[[Tensor], Tensor], count: int) -> Callable[[Tensor], Tensor]:
    """The noise after `count` calls: they draw some above S_max, too, and multiply it by zero."""
    calls = iter(range(count))
    return lambda like: torch.zeros_like(like) if next(calls, None) is not None else noise(like)


def edm() -> Iterator[Pair]:
    from generate import edm_sampler  # pyright: ignore[reportMissingImports]
    from training.networks import EDMPrecond  # pyright: ignore[reportMissingImports]

    small = {"model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "augment_dim": 9}
    network = randomised(EDMPrecond(SIZE, 3, model_type="SongUNet", **small))
    denoiser = imported("edm", lambda path: path.write_bytes(pickle.dumps({"ema": network})), {})
    latents = stream(1)(torch.empty(COUNT, 3, SIZE, SIZE))
    for churn in (0.0, 40.0):
        noise = {"S_churn": churn, "S_max": 50, "S_noise": 1.003}
        theirs = edm_sampler(network, latents, randn_like=late(stream(2), 2), **noise)
        sampler = Heun(churn=churn, churn_max=50, churn_scale=1.003)
        at = times(denoiser.schedule, "karras", 18)
        ours = sampler(denoiser, latents * 80, at, None, stream(2))
        yield f"EDM, Heun, 18 steps, churn {churn:g}", theirs, ours


def score_sde() -> Iterator[Pair]:
    without_extension(Path(sys.path[0]))
    import sampling  # pyright: ignore[reportMissingImports]
    import sde_lib  # pyright: ignore[reportMissingImports]
    from models import ncsnpp  # pyright: ignore[reportMissingImports]

    steps = 50
    network = randomised(ncsnpp.NCSNpp(sde_config(steps)))
    settings = {"data": {"image_size": SIZE}, "model": {"fir": True}}
    held = {"model": network.state_dict(), "step": 1}
    denoiser = imported("score_sde", lambda path: torch.save(held, path), settings)
    sde = sde_lib.VESDE(sigma_min=0.01, sigma_max=50, N=steps)
    both: list[list[Tensor]] = [[], []]
    for image in range(COUNT):  # one at a time: they take norms over the batch
        noise = stream(image)
        with replaced_noise(noise):
            draw = sampling.get_pc_sampler(
                sde,
                (1, 3, SIZE, SIZE),
                sampling.ReverseDiffusionPredictor,
                sampling.LangevinCorrector,
                lambda x: x,
                0.16,
                continuous=True,
                eps=1e-5,
                device="cpu",
            )
            both[0].append(2 * draw(network)[0] - 1)
        noise = stream(image)
        x = 100 * noise(torch.empty(1, 3, SIZE, SIZE)) - 1  # theirs begin about 0 of [0, 1]
        at = times(denoiser.schedule, "linspace", steps)
        both[1].append(PC(variance="fixedlarge")(denoiser, x, at, None, noise))
    yield f"score_sde, PC, {steps} steps", torch.cat(both[0]), torch.cat(both[1])


def without_extension(clone: Path) -> None:
    """Put the plain function of their `op` where its CUDA extension would be compiled."""
    _, mark, text = (clone / "op/upfirdn2d.py").read_text().partition("def upfirdn2d_native")
    own: dict[str, Any] = {"torch": torch, "F": nn.functional}
    exec(mark + text, own)

    def upfirdn2d(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: Any = (0, 0)) -> Any:
        return own["upfirdn2d_native"](x, kernel, up, up, down, down, *pad, *pad)

    sys.modules["op"] = SimpleNamespace(upfirdn2d=upfirdn2d)  # pyright: ignore[reportArgumentType]


class replaced_noise:
    """torch.randn and randn_like of the original code give our stream."""

    def __init__(self, noise: Callable[[Tensor], Tensor]) -> None:
        self.noise, self.kept = noise, (torch.randn, torch.randn_like)

    def __enter__(self) -> None:
        torch.randn = lambda *shape: self.noise(torch.empty(*shape))
        torch.randn_like = self.noise

    def __exit__(self, *_: object) -> None:
        torch.randn, torch.randn_like = self.kept


def sde_config(steps: int) -> SimpleNamespace:
    model = dict(  # noqa: C408
        nf=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(8,), dropout=0.0,
        resamp_with_conv=True, conditional=True, fir=True, fir_kernel=[1, 3, 3, 1],
        skip_rescale=True, resblock_type="biggan", progressive="none",
        progressive_input="residual", progressive_combine="sum", embedding_type="fourier",
        init_scale=0.0, fourier_scale=16, scale_by_sigma=True, nonlinearity="swish",
        sigma_max=50, sigma_min=0.01, num_scales=steps,
    )  # fmt: skip
    return SimpleNamespace(
        data=SimpleNamespace(image_size=SIZE, num_channels=3, centered=False),
        training=SimpleNamespace(continuous=True),
        model=SimpleNamespace(**model),
    )


def adm() -> Iterator[Pair]:
    sys.modules.setdefault("mpi4py", ModuleType("mpi4py"))
    from guided_diffusion import script_util  # pyright: ignore[reportMissingImports]
    from guided_diffusion.unet import UNetModel  # pyright: ignore[reportMissingImports]

    small = {"in_channels": 3, "model_channels": 64, "out_channels": 6, "num_res_blocks": 1}
    attention = {"attention_resolutions": (2,), "num_head_channels": 64, "channel_mult": (1, 2)}
    updown = {"use_scale_shift_norm": True, "resblock_updown": True, "image_size": SIZE}
    network = randomised(UNetModel(**small, **attention, **updown))
    denoiser = imported("adm", lambda path: torch.save(network.state_dict(), path), {})
    x = stream(1)(torch.empty(COUNT, 3, SIZE, SIZE))
    for spacing, clip in (("ddim25", True), ("50", False)):
        diffusion = script_util.create_gaussian_diffusion(
            steps=1000, learn_sigma=True, timestep_respacing=spacing
        )
        theirs = diffusion.ddim_sample_loop(
            network, x.shape, noise=x, clip_denoised=clip, device="cpu"
        )
        levels = torch.tensor(sorted(diffusion.use_timesteps, reverse=True)).double()
        at = torch.cat(((levels + 1) / 1000, torch.zeros(1).double()))
        ours = DDIM()(Clipped(denoiser, -1, 1) if clip else denoiser, x, at, None, stream(2))
        told = "clipped" if clip else "not clipped"
        yield f"ADM, DDIM, timestep_respacing={spacing}, {told}", theirs, ours


SOURCES = {"edm": edm, "score_sde": score_sde, "adm": adm}

if __name__ == "__main__":
    with torch.no_grad():
        main(*sys.argv[1:])
