"""The settings of NVlabs' networks as those of ours; defaults are their programs'."""

from pathlib import Path

from diffgen.errors import UsageError
from diffgen.interop.files import Settings
from diffgen.interop.inert_pickle import Record

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
    return {
        "name": "song_unet",
        **{k: v for k, v in renamed(found).items() if k != "embedding_type"},
        "embedding": embedding,
    }


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
