"""What the papers' own code computes, in small files that it can be asked for again.

    python tests/originals.py NAME CLONE

runs the network of case NAME in a clone of its repository, at the commit below, and writes
tests/data/originals/NAME.safetensors: its answer, and the names and shapes of its parameters.
Weights and inputs are waves (`waved`, `inputs`), so that no file needs to hold them. The clones
need their own requirements; diffgen needs neither, and holds none of their code.
"""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from waves import waves

FOLDER = Path(__file__).parent / "data/originals"
OWN = (
    "resample_filter",
    "pos_embed",
    "sigmas",
)  # what the original computes, and no file overwrites
SIZE, CLASSES, AUGMENT = 8, 3, 9

Shapes = dict[str, list[int]]


def plain(network: nn.Module, x: Tensor, c_noise: Tensor, label: Tensor, _: Tensor) -> Tensor:
    """What a network with labels, but without augmentation, is called with."""
    return network(x, c_noise, label)


@dataclass(frozen=True)
class Case:
    """A network of another repository: where it is, how it is made and how it is called.

    `noise` are the noise inputs of two images; `one_hot`: labels are rows of classes.
    """

    source: str
    module: str
    make: str
    settings: dict[str, Any]
    noise: tuple[float, float]
    call: Callable[..., Tensor | dict[str, Tensor]] = plain
    channels: int = 3
    size: int = SIZE
    extra: dict[str, Any] = field(default_factory=dict)


def edm(network: nn.Module, x: Tensor, c_noise: Tensor, label: Tensor, augment: Tensor) -> Tensor:
    """EDM's networks take rows of classes."""
    return network(x, c_noise, torch.eye(CLASSES)[label], augment_labels=augment)


EDM = "NVlabs/edm@008a4e5316c8e3bfe61a62f874bddba254295afb", "training.networks"
SONG = {
    "img_resolution": SIZE,
    "in_channels": 3,
    "out_channels": 3,
    "augment_dim": AUGMENT,
    "model_channels": 16,
    "channel_mult": [1, 2, 2],
    "num_blocks": 2,
    "attn_resolutions": [4],
}
NCSNPP = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}
SKIP = {"encoder_type": "skip", "decoder_type": "skip", "resample_filter": [1, 3, 3, 1]}
ADM = SONG | {"label_dim": CLASSES, "model_channels": 64, "num_blocks": 1}

GUIDED = (
    "openai/guided-diffusion@22e0df8183507e13a7813f8d38d51b072ca1e67c",
    "guided_diffusion.unet",
)
IMPROVED = (
    "openai/improved-diffusion@1bc7bbbdc414d83d4abf2ad8cc1446dc36c4e4d5",
    "improved_diffusion.unet",
)
LEVELS = {
    "in_channels": 3,
    "model_channels": 128,
    "out_channels": 6,
    "num_res_blocks": 1,
    "attention_resolutions": (2,),
    "channel_mult": (1, 2),
    "num_classes": CLASSES,
}
GUIDED_ADM = {
    "image_size": SIZE,
    "num_head_channels": 64,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
}

HALF = {"channel_mult": (0.5, 1)}  # as the released network of 512 pixels begins


CLASSIFIER = {key: value for key, value in LEVELS.items() if key != "num_classes"} | {
    "image_size": SIZE,
    "model_channels": 64,
    "out_channels": CLASSES,
    "num_head_channels": 64,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
    "pool": "attention",
}
AVERAGED = CLASSIFIER | {"resblock_updown": False, "pool": "adaptive"}


def judged(network: nn.Module, x: Tensor, c_noise: Tensor, *_: Tensor) -> Tensor:
    """A classifier's logits."""
    return network(x, c_noise)


def edm2(network: Any, x: Tensor, c_noise: Tensor, label: Tensor, _: Tensor) -> dict[str, Tensor]:
    """EDM2's network inside its preconditioning, and its uncertainty."""
    log_variance = network.logvar_linear(network.logvar_fourier(c_noise))
    out = network.unet(x, c_noise, torch.eye(CLASSES)[label])
    return {"out": out, "log_variance": log_variance[:, 0]}


EDM2 = "NVlabs/edm2@4bf8162f601bcc09472ce8a32dd0cbe8889dc8fc", "training.networks_edm2"
MP = {
    "img_resolution": SIZE,
    "img_channels": 3,
    "label_dim": CLASSES,
    "model_channels": 16,
    "channel_mult": [1, 2, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "channels_per_head": 16,
}


def told(network: nn.Module, x: Tensor, c_noise: Tensor, *_: Tensor) -> Tensor:
    """score_sde's network of images in [0, 1]; its answer is a score, here times sigma."""
    return network(x / 2 + 0.5, c_noise) * c_noise[:, None, None, None]


# Its CUDA extension (op/) was replaced by the native function in the same file.
SCORE_SDE = "yang-song/score_sde_pytorch@cb1f359f4aadf0ff9a5e122fe8fffc9451fd6e44", "models.ncsnpp"
SDE_CONFIG = SimpleNamespace(
    data=SimpleNamespace(image_size=SIZE, num_channels=3, centered=False),
    training=SimpleNamespace(continuous=True),
    model=SimpleNamespace(
        nf=16,
        ch_mult=(1, 2, 2),
        num_res_blocks=2,
        attn_resolutions=(4,),
        dropout=0.0,
        resamp_with_conv=True,
        conditional=True,
        fir=True,
        fir_kernel=[1, 3, 3, 1],
        skip_rescale=True,
        resblock_type="biggan",
        progressive="none",
        progressive_input="residual",
        progressive_combine="sum",
        embedding_type="fourier",
        init_scale=0.0,
        fourier_scale=16,
        scale_by_sigma=True,
        nonlinearity="swish",
        sigma_max=50,
        sigma_min=0.01,
        num_scales=10,
    ),
)


def moving(network: nn.Module, x: Tensor, c_noise: Tensor, *_: Tensor) -> Tensor:
    """flow_matching's velocity of images without labels."""
    return network(x, c_noise, extra={})


FLOW_MATCHING = "facebookresearch/flow_matching@11568d37f8d5a080e12aa7b5305d9c35ae07d136"
FLOW_CIFAR10 = LEVELS | {
    "model_channels": 32,
    "channel_mult": (2, 4),
    "out_channels": 3,
    "num_classes": None,
    "conv_resample": False,
    "num_heads": 1,
    "num_head_channels": -1,
    "use_scale_shift_norm": True,
    "use_new_attention_order": True,
}

CASES: dict[str, Case] = {
    "flow_matching": Case(
        FLOW_MATCHING, "models.unet", "UNetModel", FLOW_CIFAR10, (3.0, 998.0), moving
    ),
    "dit": Case(
        "facebookresearch/DiT@ed81ce2229091fd4ecc9a223645f95cf379d582b",
        "models",
        "DiT",
        {
            "input_size": SIZE,
            "patch_size": 2,
            "in_channels": 3,
            "hidden_size": 24,
            "depth": 2,
            "num_heads": 3,
            "num_classes": CLASSES,
        },
        (3.0, 998.0),
    ),
    "ddpmpp": Case(*EDM, "SongUNet", SONG | {"label_dim": CLASSES}, (-1.5, 0.7), edm),
    "ncsnpp": Case(*EDM, "SongUNet", SONG | NCSNPP, (-1.5, 0.7), edm),
    "song_skip": Case(*EDM, "SongUNet", SONG | SKIP, (-1.5, 0.7), edm),
    "adm": Case(*GUIDED, "UNetModel", LEVELS | GUIDED_ADM, (3.0, 998.0)),
    "adm_new_order": Case(
        *GUIDED,
        "UNetModel",
        LEVELS | GUIDED_ADM | {"use_new_attention_order": True},
        (3.0, 998.0),
    ),
    "adm_512": Case(*GUIDED, "UNetModel", LEVELS | GUIDED_ADM | HALF, (3.0, 998.0)),
    "adm_classifier": Case(*GUIDED, "EncoderUNetModel", CLASSIFIER, (3.0, 998.0), judged),
    "adm_classifier_average": Case(*GUIDED, "EncoderUNetModel", AVERAGED, (3.0, 998.0), judged),
    "improved": Case(*IMPROVED, "UNetModel", LEVELS | {"num_heads": 4}, (3.0, 998.0)),
    "score_sde": Case(*SCORE_SDE, "NCSNpp", {"config": SDE_CONFIG}, (0.3, 20.0), told),
    "edm2": Case(*EDM2, "Precond", MP, (-1.5, 0.7), edm2),
    "edm_adm": Case(*EDM, "DhariwalUNet", ADM, (-1.5, 0.7), edm),
}


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (2, C, H, W), c_noise (2,), label (2,), augment (2, 9) of a case."""
    shape = 2, case.channels, case.size, case.size
    x = waves(2 * case.channels * case.size**2, 0.5).view(shape).float()
    return x, torch.tensor(case.noise), torch.tensor([0, 2]), waves(18, 1.0).view(2, 9).float()


def waved(shapes: Shapes) -> dict[str, Tensor]:
    """Waves for weights, in the order of their names: kernels keep the variance, others a half."""
    state = {}
    for phase, name in enumerate(sorted(shapes)):
        shape = torch.Size(shapes[name])
        kernel = len(shape) in (2, 3, 4)
        scale = 1.5 * (shape.numel() / shape[0]) ** -0.5 if kernel else 0.5
        state[name] = (scale * waves(shape.numel(), phase)).view(shape).float()
    return state


def expected(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a case under the names of the original, and what it answers."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
        return waved(shapes), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def write(name: str, clone: str) -> None:
    """Run the original and keep its answer."""
    sys.path.insert(0, clone)
    case = CASES[name]
    network: nn.Module = getattr(importlib.import_module(case.module), case.make)(**case.settings)
    kept = {k: v for k, v in network.state_dict().items() if not k.endswith(OWN)}
    shapes = {key: list(value.shape) for key, value in kept.items()}
    network.load_state_dict(waved(shapes), strict=False)
    with torch.no_grad():
        out = case.call(network.eval(), *inputs(case))
    FOLDER.mkdir(parents=True, exist_ok=True)
    answer = out if isinstance(out, dict) else {"out": out}
    about = {"shapes": json.dumps(shapes), "source": case.source}
    save_file(
        {k: v.contiguous() for k, v in answer.items()}, FOLDER / f"{name}.safetensors", about
    )


if __name__ == "__main__":
    write(*sys.argv[1:])
