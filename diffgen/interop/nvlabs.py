"""Pickles of NVlabs/edm and NVlabs/edm2: their networks' settings, with their programs' defaults,
as recipes.

The classes that wrap a network tell what it was trained as (Karras et al. 2022, table 1).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffgen.errors import UsageError
from diffgen.interop.edm import edm2_names, edm_names, edm_state
from diffgen.interop.files import Release, Settings, Shape
from diffgen.interop.inert_pickle import Record, read_records, tensors
from diffgen.interop.recipes import ddpm_recipe, denoiser_recipe, ve_recipe

SHAPE = ("img_resolution", "img_channels", "in_channels", "out_channels", "label_dim")
SONG = {
    "model_channels": 128,
    "channel_mult": [1, 2, 2, 2],
    "num_blocks": 4,
    "attn_resolutions": [16],
    "dropout": 0.10,
    "embedding_type": "positional",
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": [1, 1],
    "augment_dim": 0,
}
ADM = {
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
    "num_blocks": 3,
    "attn_resolutions": [32, 16, 8],
    "dropout": 0.10,
    "augment_dim": 0,
}
MP = {
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
    "num_blocks": 3,
    "attn_resolutions": [16, 8],
    "dropout": 0.0,
    "label_balance": 0.5,
    "concat_balance": 0.5,
    "res_balance": 0.3,
    "attn_balance": 0.3,
    "clip_act": 256,
    "channels_per_head": 64,
}
OURS = {
    "model_channels": "width",
    "channel_mult": "multipliers",
    "num_blocks": "blocks",
    "attn_resolutions": "attention",
    "embedding_type": "embedding",
    "resample_filter": "taps",
    "encoder_type": "encoder",
    "decoder_type": "decoder",
    "res_balance": "residual_balance",
    "attn_balance": "attention_balance",
    "clip_act": "clip",
    "channels_per_head": "head_width",
}


def settings_of(record: Record, path: Path, defaults: Settings | None = None) -> Record:
    """What a network was made with; UsageError where ours has no counterpart of a setting."""
    defaults = defaults or {"SongUNet": SONG, "DhariwalUNet": ADM}[record["class_name"]]
    given, name = record.get("_init_kwargs"), str(record.get("class_name"))
    if not isinstance(given, dict) or record.get("_init_args"):
        raise UsageError(f"{path} does not say how its {name} was made")
    derived = ("channel_mult_emb", "channel_mult_noise", "label_dropout", "resample_filter")
    if unknown := sorted(given.keys() - {*SHAPE, *defaults, *derived}):
        listed = ", ".join(f"{key}={given[key]}" for key in unknown)
        raise UsageError(f"no import of {path}: {name} with {listed}")
    fourier = given.get("embedding_type") == "fourier"
    widths = {"UNet": (None, None), "DhariwalUNet": (4, None)}  # of embeddings, in the papers
    emb, noise = widths.get(name, (4, 2 if fourier else 1))
    stated = {"channel_mult_noise": 1, **given} if fourier else given
    only = {"channel_mult_noise": noise, "channel_mult_emb": emb}
    only |= {} if "resample_filter" in defaults else {"resample_filter": [1, 1]}
    for key, value in only.items():
        if stated.get(key, value) != value:
            what = f"{name} with {key}={stated[key]}, only {value}"
            raise UsageError(f"no import of {path}: {what}")
    return {key: given.get(key, value) for key, value in defaults.items()}


def renamed(found: Settings) -> Record:
    return {OURS.get(key, key): value for key, value in found.items()}


def song_network(found: Record, path: Path) -> Record:
    embedding = {"positional": "sinusoid", "fourier": "fourier"}.get(found["embedding_type"])
    return {"name": "song_unet", **renamed(found), "embedding": embedding}


def adm_network(found: Record, path: Path) -> Record:
    if found["channel_mult"][0] != 1:
        raise UsageError(f"no import of {path}: a first channel_mult other than 1")
    return {
        "name": "unet",
        **renamed(found),
        "downsample": "residual",
        "frequencies": "cosine",
        "norm_eps": 1e-5,
        "embedding": "scale_shift",
        "head_width": 64,
    }


def read_edm(path: Path, size: int | None, settings: Settings) -> Release:
    """A pickle of EDM's training, or of its releases: the average of its weights."""
    wrapper = _network(path)
    if wrapper.get("class_name") == "Precond":
        raise UsageError(f"no import of {path}: it is of EDM2, take `diffgen import edm2`")
    inner = _inside(wrapper, "model", path)
    networks = {"SongUNet": song_network, "DhariwalUNet": adm_network}
    network = _of(networks, inner, path)(settings_of(inner, path), path)
    recipe = _of(WRAPPERS, wrapper, path)(wrapper, network)
    state = {k: v for k, v in tensors(wrapper, path).items() if k != "u"}
    state = {key.removeprefix("model."): value for key, value in state.items()}
    return Release(
        recipe,
        _shape(wrapper, path),
        edm_state(state),
        edm_names,
        classes=_number(wrapper, "label_dim", path),
        assumed=_assumed(recipe),
    )


def read_edm2(path: Path, size: int | None, settings: Settings) -> Release:
    """A snapshot of EDM2 on pixels: an average of its weights."""
    wrapper = _network(path)
    if wrapper.get("class_name") != "Precond":
        other = ", take `diffgen import edm`" if wrapper.get("class_name") in WRAPPERS else ""
        raise UsageError(
            f"no import of {path}: {wrapper.get('class_name')} is not EDM2's Precond{other}"
        )
    inner = _inside(wrapper, "unet", path)
    found = settings_of(inner, path, MP)
    clip = None if found["clip_act"] is None else float(found["clip_act"])
    network = {"name": "mp_unet", **renamed(found), "clip": clip}
    state = tensors(wrapper, path)
    shape, classes = _shape(wrapper, path), _number(wrapper, "label_dim", path)
    if shape[0] == 4:
        raise UsageError(
            f"no import of {path}: its 4 channels are those of an autoencoder, and diffgen makes "
            "pixels"
        )
    network["uncertainty"] = len(state.get("logvar_fourier.freqs", ()))
    recipe = _edm(wrapper, network)
    return Release(recipe, shape, state, edm2_names, classes=classes, assumed=_assumed(recipe))


def _network(path: Path) -> Record:
    data = read_records(path)
    for key in ("ema", "net"):
        if isinstance(data.get(key), dict):
            return data[key]
    raise UsageError(f"{path} holds no network under ema")


def _inside(wrapper: Record, name: str, path: Path) -> Record:
    modules = wrapper.get("_modules")
    found = modules.get(name) if isinstance(modules, dict) else None
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no {name} in its {wrapper.get('class_name')}")
    return found


def _of(choices: dict[str, Any], record: Record, path: Path) -> Callable[..., Any]:
    name = record.get("class_name")
    if name not in choices:
        raise UsageError(f"no import of {path}: {name} is none of {', '.join(choices)}")
    return choices[name]


def _edm(wrapper: Record, network: Record) -> Record:
    return denoiser_recipe(
        "edm",
        schedule={"name": "edm", "sigma_max": 80.0, "sigma_min": 0.002},
        prediction={"name": "edm", "sigma_data": float(wrapper.get("sigma_data", 0.5))},
        noise_input="log_sigma",
        network=network,
    )


def _vp(wrapper: Record, network: Record) -> Record:
    least = float(wrapper.get("beta_min", 0.1))
    most = least + float(wrapper.get("beta_d", 19.9))
    schedule = {"name": "vp", "beta_min": least, "beta_max": most}
    return ddpm_recipe(schedule, network)


def _ve(wrapper: Record, network: Record) -> Record:
    return ve_recipe(float(wrapper["sigma_max"]), float(wrapper["sigma_min"]), network)


def _iddpm(wrapper: Record, network: Record) -> Record:
    cosine = {"name": "cosine", "levels": int(wrapper.get("M", 1000))}
    cosine |= {"offset": float(wrapper.get("C_2", 0.008))}
    cosine |= {"beta_max": 1 - float(wrapper.get("C_1", 0.001))}
    return ddpm_recipe(cosine, network, variance="learned")


WRAPPERS = {"EDMPrecond": _edm, "VPPrecond": _vp, "VEPrecond": _ve, "iDDPMPrecond": _iddpm}


def _shape(wrapper: Record, path: Path) -> Shape:
    size = _number(wrapper, "img_resolution", path)
    return _number(wrapper, "img_channels", path), size, size


def _number(record: Record, key: str, path: Path) -> int:
    value = record.get(key)
    if type(value) is not int or not 0 <= value <= 10**6:
        raise UsageError(f"{path} does not say its {key}")
    return value


def _assumed(recipe: Record) -> tuple[str, ...]:
    held = "its one state of the weights is an average (ema=raw takes it)"
    ends = "the sigmas of the paper's sampler" if recipe["schedule"]["name"] == "edm" else ""
    return (held, ends) if ends else (held,)
