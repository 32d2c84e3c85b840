"""Which settings of other programs are honoured; every other one is refused by name.

A rule is a type (the setting is honoured), a tuple (it must be one of these) or None (it says how
that program trains or draws, or what its weights tell).
"""

from types import NoneType
from typing import Any

Rule = type | tuple[Any, ...] | None

MOST = 10**5  # of anything that is counted


def ignored(section: str, keys: str) -> dict[str, Rule]:
    """The rule None for several keys of a section."""
    return dict.fromkeys(f"{section}.{key}" for key in keys.split())


DATA: dict[str, Rule] = {
    "data.category": str,
    "data.channels": int,
    "data.dataset": str,
    "data.image_size": int,
    "data.logit_transform": (False,),
    "model.ema_rate": float,
    **ignored("data", "gaussian_dequantization num_workers random_flip uniform_dequantization"),
    **ignored("model", "ema"),
}
NCSN: dict[str, Rule] = DATA | {
    "data.rescaled": (False,),
    "model.batch_norm": (False,),
    "model.ngf": int,
    "model.nonlinearity": ("elu",),
    "model.normalization": ("InstanceNorm++",),
    "model.num_classes": int,
    "model.sigma_begin": float,
    "model.sigma_dist": ("geometric",),
    "model.sigma_end": float,
    "model.spec_norm": (False,),
}
DDIM: dict[str, Rule] = DATA | {
    "data.rescaled": (True,),
    "diffusion.beta_end": float,
    "diffusion.beta_schedule": ("linear", "quad"),
    "diffusion.beta_start": float,
    "diffusion.num_diffusion_timesteps": int,
    "model.attn_resolutions": list,
    "model.ch": int,
    "model.ch_mult": list,
    "model.dropout": float,
    "model.in_channels": int,
    "model.num_res_blocks": int,
    "model.out_ch": int,
    "model.resamp_with_conv": (True,),
    "model.type": ("simple",),
    "model.var_type": None,
}
DIFFUSERS: dict[str, Rule] = {
    "unet.act_fn": ("silu", "swish"),
    "unet.add_attention": (True,),
    "unet.attention_head_dim": (int, NoneType),
    "unet.attn_norm_num_groups": (int, NoneType),
    "unet.block_out_channels": list,
    "unet.center_input_sample": (False,),
    "unet.class_embed_type": (None,),
    "unet.down_block_types": list,
    "unet.downsample_padding": (0, 1),
    "unet.downsample_type": ("conv",),
    "unet.dropout": float,
    "unet.flip_sin_to_cos": bool,
    "unet.freq_shift": (0, 1),
    "unet.in_channels": int,
    "unet.layers_per_block": int,
    "unet.mid_block_scale_factor": (1,),
    "unet.mid_block_type": ("UNetMidBlock2D",),
    "unet.norm_eps": float,
    "unet.norm_num_groups": int,
    "unet.num_class_embeds": (int, NoneType),
    "unet.out_channels": int,
    "unet.resnet_time_scale_shift": ("default", "scale_shift"),
    "unet.sample_size": (int, list, NoneType),
    "unet.time_embedding_dim": (None,),
    "unet.time_embedding_type": ("positional",),
    "unet.up_block_types": list,
    "unet.upsample_type": ("conv",),
    "scheduler.beta_end": float,
    "scheduler.beta_schedule": ("linear", "scaled_linear", "sigmoid", "squaredcos_cap_v2"),
    "scheduler.beta_start": float,
    "scheduler.clip_sample": bool,
    "scheduler.clip_sample_range": (1,),
    "scheduler.num_train_timesteps": int,
    "scheduler.prediction_type": ("epsilon", "v_prediction", "sample"),
    "scheduler.rescale_betas_zero_snr": bool,
    "scheduler.trained_betas": (None,),
    "scheduler.variance_type": (
        "fixed_small",
        "fixed_small_log",
        "fixed_large",
        "fixed_large_log",
        "learned_range",
    ),
    **ignored(
        "unet",
        "decay inv_gamma min_decay num_train_timesteps optimization_step power "
        "update_after_step use_ema_warmup",
    ),
}
# Programs of diffusers that draw from one table of betas, each in its own way.
SCHEDULERS = (
    *("DDIM", "DDIMInverse", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep"),
    *("DPMSolverMultistep", "DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete"),
    *("HeunDiscrete", "LMSDiscrete", "PNDM", "UniPCMultistep"),
)
FLOW, FLOW_LEVELS = "FlowMatchEulerDiscreteScheduler", 999  # the level at t = 1
NULL = "_null_label"  # in our UNet2DModels' config.json: which of the labels stands for none
# What is taken where no file says it.
DEFAULTS: dict[str, Any] = {
    "model.sigma_begin": 1.0,
    "model.sigma_end": 0.01,
    "model.dropout": 0.0,
    "diffusion.beta_schedule": "linear",
    "diffusion.beta_start": 1e-4,
    "diffusion.beta_end": 0.02,
    "diffusion.num_diffusion_timesteps": 1000,
    "scheduler.beta_schedule": "linear",
    "scheduler.beta_start": 1e-4,
    "scheduler.beta_end": 0.02,
    "scheduler.num_train_timesteps": 1000,
    "scheduler.prediction_type": "epsilon",
    "scheduler.clip_sample": True,
    "scheduler.rescale_betas_zero_snr": False,
}
# The flags of guided-diffusion and improved-diffusion; most are told by the weights.
ADM: dict[str, Rule] = {
    "flags.classifier_depth": int,
    "flags.classifier_pool": ("attention", "adaptive"),
    "flags.diffusion_steps": int,
    "flags.dropout": float,
    "flags.image_size": int,
    "flags.noise_schedule": ("linear", "cosine"),
    "flags.num_head_channels": int,
    "flags.num_heads": int,
    "flags.num_heads_upsample": (-1,),
    "flags.predict_xstart": (False,),
    "flags.rescale_timesteps": bool,
    "flags.timestep_respacing": ("",),
    "flags.use_new_attention_order": bool,
    **ignored(
        "flags",
        "attention_resolutions channel_mult class_cond classifier_attention_resolutions "
        "classifier_resblock_updown classifier_scale classifier_use_fp16 "
        "classifier_use_scale_shift_norm classifier_width learn_sigma num_channels "
        "num_res_blocks resblock_updown rescale_learned_sigmas use_checkpoint use_fp16 use_kl "
        "use_scale_shift_norm",
    ),
}
SCORE_SDE: dict[str, Rule] = {
    "data.category": str,
    "data.centered": bool,
    "data.dataset": str,
    "data.image_size": int,
    "model.beta_max": float,
    "model.beta_min": float,
    "model.conditional": (True,),
    "model.conv_size": (3,),
    "model.dropout": float,
    "model.ema_rate": float,
    "model.fir": bool,
    "model.fir_kernel": ([1, 3, 3, 1],),
    "model.name": ("ncsnpp",),
    "model.nonlinearity": ("swish",),
    "model.normalization": ("GroupNorm",),
    "model.progressive_combine": ("sum",),
    "model.resamp_with_conv": (True,),
    "model.resblock_type": ("biggan",),
    "model.scale_by_sigma": bool,
    "model.skip_rescale": (True,),
    "training.continuous": (True,),
    "training.sde": ("vesde", "vpsde", "subvpsde"),
    **ignored("data", "num_channels random_flip tfrecords_path uniform_dequantization"),
    **ignored(
        "model",
        "attention_type attn_resolutions ch_mult embedding_type fourier_scale init_scale nf "
        "num_res_blocks num_scales progressive progressive_input sigma_max sigma_min",
    ),
    **ignored(
        "training",
        "batch_size eval_freq likelihood_weighting log_freq n_iters reduce_mean snapshot_freq "
        "snapshot_freq_for_preemption snapshot_sampling",
    ),
}
DIT: dict[str, Rule] = {"flags.num_classes": int, "flags.num_heads": int}
RULES: dict[str, dict[str, Rule]] = {
    "ncsn": NCSN,
    "ncsnv2": NCSN,
    "ddim": DDIM,
    "ddpm-diffusers": DIFFUSERS,
    "edm": {},
    "edm2": {},
    "score_sde": SCORE_SDE,
    "adm": ADM,
    "improved-diffusion": ADM,
    "dit": DIT,
}
PICKLED = ("edm", "edm2")  # with all their settings
FLAGS = ("adm", "improved-diffusion", "dit")  # whose settings have no sections


# What UNet2DModel takes where its configuration says nothing.
UNET = {
    "attention_head_dim": 8,
    "attn_norm_num_groups": None,
    "block_out_channels": [224, 448, 672, 896],
    "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3],
    "downsample_padding": 1,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 3,
    "layers_per_block": 2,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "out_channels": 3,
    "resnet_time_scale_shift": "default",
    "sample_size": None,
    "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
}
