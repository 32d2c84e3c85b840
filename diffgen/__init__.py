"""diffgen: generative models by noising and denoising, trained, sampled and measured."""

__version__ = "0.1.0"


def load(path, ema=None):
    """(denoiser, schedule, pixel range) of a checkpoint: a path, or a run's folder.

    `ema` names the weights: an average, `raw`, or None for the first average. The denoiser takes
    x_t (B, C, H, W), t and labels, and gives x0; the range turns x0 into bytes by `to_uint8`.
    """
    from pathlib import Path

    from diffgen import checkpoint

    found = checkpoint.load(checkpoint.locate(str(path), Path("runs")))
    denoiser = found.denoiser(ema)
    return denoiser, denoiser.schedule, found.range
