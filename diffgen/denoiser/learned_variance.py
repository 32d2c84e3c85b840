"""A learned variance of ancestral steps: what the second half of a network's channels says.

The network says for each pixel how far, in the logarithm, the variance lies between its two
bounds (Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, 2021, equation 15).
"""

from torch import Tensor, nn

from diffgen.denoiser.base import Denoiser, Preconditioned
from diffgen.errors import UsageError


def between(outputs: Tensor, small: Tensor, large: Tensor) -> Tensor:
    """ln of the variance (B, C, H, W) between the logarithms `small` and `large`.

    outputs (B, 2 C, H, W) are the network's; at -1 stands `small` and at 1 `large`, and a network
    may go beyond.
    """
    share = (outputs.chunk(2, 1)[1] + 1) / 2
    return share * large + (1 - share) * small


def estimate(
    denoiser: Denoiser, x: Tensor, t: Tensor, label: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The estimate of x0, and the outputs (B, 2 C, H, W) of the network that it came from.

    Whatever wraps the network (guidance, clipping) edits x0 and leaves the variance: of a guided
    batch of two branches the first, the labelled one, is taken. UsageError without such a network,
    and where guidance asks another one alone.
    """
    found: list[Tensor] = []

    def keep(network: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        found.append(outputs)

    with learner(denoiser).network.register_forward_hook(keep):
        x0 = denoiser(x, t, label)
    if not found:
        raise UsageError(
            "sampler.variance=learned: this guidance.weight asks the weak model alone, and the "
            "variance is the model's; take another weight, or sampler.variance=fixedsmall"
        )
    return x0, found[0][: len(x)].to(x)


def learner(denoiser: Denoiser) -> Preconditioned:
    """The model inside a denoiser, the first where guidance has two."""
    models = [module for module in denoiser.modules() if isinstance(module, Preconditioned)]
    if not models or not models[0].learns_variance:
        raise UsageError(
            "sampler.variance=learned: this checkpoint learned no variance; take fixedsmall, or "
            "train with model.variance=learned"
        )
    return models[0]
