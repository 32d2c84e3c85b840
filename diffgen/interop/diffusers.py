"""Our U-Net's parameters under the names of diffusers.UNet2DModel, and back.

The counterpart of `UNet(**settings)` is UNet2DModel in the configuration of
google/ddpm-cifar10-32: freq_shift 1, no flip of sine and cosine, downsample_padding 0, norm_eps
1e-6. Embedding "scale_shift" is its resnet_time_scale_shift, which needs attn_norm_num_groups too.
"""

from collections.abc import Mapping

from torch import Tensor

from diffgen.interop.mapping import State, adopt, release
from diffgen.interop.unet_names import diffusers_names
from diffgen.network.unet import UNet

OLD = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def to_diffusers(state: Mapping[str, Tensor]) -> State:
    """The state of our U-Net as one that UNet2DModel.load_state_dict accepts."""
    return release(state, diffusers_names(state))


def from_diffusers(state: Mapping[str, Tensor], network: UNet) -> State:
    """The state of a UNet2DModel as one that `network`, its counterpart, accepts.

    Reads attention under its old names (query, proj_attn), too. UsageError when it does not fit.
    """
    return adopt(modern(state), diffusers_names(network.state_dict()), network)


def modern(state: Mapping[str, Tensor]) -> State:
    """The state with attention under the names of today's diffusers."""
    for old, new in OLD.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    return dict(state)
