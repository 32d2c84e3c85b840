"""Checkpoints of yang-song/score_sde_pytorch: its NCSN++ and DDPM++ as our SongUNet.

A file holds weights, and their average as a list in the order of the parameters. Its networks are
one list of modules (`all_modules.N`), in the order in which they are called; most of their
settings are read from these, and the others are those of the released configurations.
"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from diffgen.errors import UsageError
from diffgen.interop.files import Release, Settings, State, read_weights, unwrapped
from diffgen.interop.recipes import denoiser_recipe, origin_of, ve_recipe
from diffgen.interop.score_sde_modules import ATTENTION_AT, outline_of
from diffgen.network.pyramid import ResidualPyramid
from diffgen.network.song_unet import SongUNet

PARTS = {
    "norm": ("GroupNorm_0",),
    "conv": ("Conv_0",),
    "emb_norm.emb_proj": ("Dense_0",),
    "emb_norm.norm": ("GroupNorm_1",),
    "last": ("Conv_1",),
    "shortcut": ("Conv_2",),
}
ATTENTION = {"norm": ("GroupNorm_0",), "qkv": ("NIN_0", "NIN_1", "NIN_2"), "out": ("NIN_3",)}
LEAVES = {"weight": "W", "bias": "b"}
BETAS = {"beta_min": 0.1, "beta_max": 20.0}
SDES = {"fourier": ("vesde",), "sinusoid": ("vpsde", "subvpsde")}  # by the embedding of the level


def score_sde_names(network: SongUNet) -> dict[str, tuple[str, ...]]:
    """The names in score_sde of each key of our SongUNet."""
    modules = dict(network.named_modules())
    places = {ours: f"all_modules.{n}" for n, ours in enumerate(_in_order(network, modules))}
    aside = "Conv2d_0" if isinstance(network.pyramid, ResidualPyramid) else "Conv_0"
    return {key: _names(key, places, aside) for key in network.state_dict()}


def _names(key: str, places: dict[str, str], aside: str) -> tuple[str, ...]:
    stem, leaf = key.rsplit(".", 1)
    where = max((p for p in places if f"{stem}.".startswith(f"{p}.")), key=len)
    part = stem.removeprefix(where).strip(".")
    if where.endswith(".attend"):
        leaf = leaf if part == "norm" else LEAVES[leaf]
        return tuple(f"{places[where]}.{theirs}.{leaf}" for theirs in ATTENTION[part])
    if where.startswith("pyramid."):
        return (f"{places[where]}.{aside}.{leaf}",)
    if not part:
        return (f"{places[where]}.{'W' if leaf == 'frequencies' else leaf}",)
    return tuple(f"{places[where]}.{theirs}.{leaf}" for theirs in PARTS[part])


def _in_order(network: SongUNet, modules: Collection[str]) -> Iterator[str]:
    """Our modules as their list has them, those that are not there left out."""
    depth = len(network.descents)

    def blocks(where: str) -> Iterator[str]:
        count = len(list(network.get_submodule(where).children()))
        for index in range(count):
            yield f"{where}.{index}"
            if f"{where}.{index}.attend.qkv" in modules:
                yield f"{where}.{index}.attend"

    def heads(levels: Iterable[int]) -> Iterator[str]:
        return (f"heads.{level}.{part}" for level in levels for part in (0, 2))

    everywhere = "heads.1" in modules
    wanted = ["condition.fourier", "condition.level.0", "condition.level.2", "stem"]
    for level in range(depth):
        wanted += [*blocks(f"descents.{level}.blocks")]
        wanted += [f"halvings.{level}", f"pyramid.convs.{level}"]
    wanted += ["middle.first", "middle.first.attend", "middle.second"]
    for level in reversed(range(depth)):
        wanted += [*blocks(f"ascents.{level}.blocks")]
        wanted += [*(heads([level]) if everywhere else ()), f"doublings.{level - 1}"]
    wanted += [] if everywhere else heads([0])
    return (name for name in wanted if name in modules)


def score_sde_state(state: State, network: SongUNet) -> State:
    """Their state with matrices of outputs by inputs."""
    return {k: v.T if k.endswith(".W") and v.ndim == 2 else v for k, v in state.items()}


def _subvp_state(state: State, network: SongUNet) -> State:
    """That which gives minus eps, sigma times the score: `score` alone sees x_t as it is."""
    last = max(int(key.split(".")[1]) for key in state)
    ours = score_sde_state(state, network)
    return {k: -v if k.startswith(f"all_modules.{last}.") else v for k, v in ours.items()}


def read_score_sde(path: Path, size: int | None, settings: Settings) -> Release:
    """A checkpoint_N.pth of NCSN++ or DDPM++, trained on continuous times."""
    data = read_weights(path)
    held = data.get("model") if isinstance(data, dict) else None
    if not isinstance(held, dict) or not all(isinstance(v, Tensor) for v in held.values()):
        raise UsageError(f"{path} does not hold weights under model, as score_sde saves them")
    state = unwrapped(held)
    sigmas = state.pop("sigmas", None)
    if sigmas is None or not all(key.startswith("all_modules.") for key in state):
        raise UsageError(f"{path} holds no NCSN++ or DDPM++ of score_sde")
    found = outline_of(state, settings, path)
    network = found.network
    side = settings.get("data", {}).get("image_size", size) or found.side(path)
    network["attention"] = [side >> level for level, has in enumerate(found.attends) if has]
    step = data.get("step", 0)
    sde = _sde(network["embedding"], settings, path)
    recipe = _recipe(sde, network, sigmas, settings) | origin_of(settings, "ncsn")
    return Release(
        recipe,
        (found.channels, side, side),
        state,
        score_sde_names,
        average=_average(data, state, path),
        rewrite=_subvp_state if sde == "subvpsde" else score_sde_state,
        step=step if type(step) is int and step > 0 else 0,
        assumed=_assumed(sde, recipe, settings, size),
    )


def _average(data: dict[str, Any], state: State, path: Path) -> State:
    """Their list, which leaves out what is not learned, under the names of the weights."""
    ema = data.get("ema")
    listed = ema.get("shadow_params") if isinstance(ema, dict) else None
    if listed is None:
        return {}
    learned = [key for key in state if not (key.endswith(".W") and state[key].ndim == 1)]
    right = isinstance(listed, list) and len(listed) == len(learned)
    if not right or any(
        not isinstance(v, Tensor) or v.shape != state[k].shape
        for k, v in zip(learned, listed, strict=True)
    ):
        raise UsageError(f"the average in {path} is not a list of its parameters in their order")
    return state | dict(zip(learned, listed, strict=True))


def _sde(embedding: str, settings: Settings, path: Path) -> str:
    """vesde, vpsde or subvpsde: as the configuration says, or as only Fourier features are VE's.

    UsageError where it says otherwise than the weights, or neither tells VP from sub-VP.
    """
    given, possible = {**settings.get("model", {}), **settings.get("data", {})}, SDES[embedding]
    stated = settings.get("training", {}).get("sde", possible[0] if len(possible) == 1 else None)
    if stated is None:
        raise UsageError(
            f"no import of {path}: the weights of its SDE, {' or '.join(possible)}, look alike",
            'say which in a file (echo "training: {sde: vpsde}" > sde.yml), and add '
            "--config sde.yml",
        )
    if stated not in possible:
        kind = "Fourier features" if embedding == "fourier" else "a sinusoid"
        raise UsageError(f"no import of {path}: training.sde={stated} with {kind} of the level")
    ve = stated == "vesde"
    for key, usual in (("model.scale_by_sigma", ve), ("data.centered", not ve)):
        if given.get(key.split(".")[1], usual) != usual:
            raise UsageError(f"no import of {path}: {key}={not usual} with {stated}")
    return stated


def _recipe(
    sde: str, network: dict[str, Any], sigmas: Tensor, settings: Settings
) -> dict[str, Any]:
    """Images in [-1, 1] in place of VE's [0, 1], where sigma is twice as large (EDM's paper)."""
    if sde != "vesde":
        betas = {key: float(settings.get("model", {}).get(key, BETAS[key])) for key in BETAS}
        sub = sde == "subvpsde"
        return denoiser_recipe(
            "ddpm",
            schedule={"name": "vp", **betas, "sub": sub},
            prediction={"name": "score" if sub else "eps"},
            noise_input="level",
            network=network,
        )
    greatest, least = (2 * float(f"{sigmas[n].item():.6g}") for n in (0, -1))
    return ve_recipe(greatest, least, network)


def _assumed(
    sde: str, recipe: dict[str, Any], settings: Settings, size: int | None
) -> tuple[str, ...]:
    network, said, model = recipe["network"], [], settings.get("model", {})
    if "sde" not in settings.get("training", {}):
        said.append(f"training.sde={sde}, as its embedding is")
    if "continuous" not in settings.get("training", {}):
        said.append("continuous times")
    if sde == "vesde":
        said.append("images in [-1, 1], where sigma is twice that of its images in [0, 1]")
    elif not BETAS.keys() <= model.keys():
        said.append(
            f"betas from {recipe['schedule']['beta_min']:g} to {recipe['schedule']['beta_max']:g}"
        )
    if "dropout" not in model:
        said.append(f"dropout {network['dropout']:g}")
    if "fir" not in model:
        said.append(f"resampling by weights {network['taps']}, which no weight tells")
    if size is None and "image_size" not in settings.get("data", {}):
        said.append(f"attention at {ATTENTION_AT} pixels, and so the size of the images")
    return tuple(said)
