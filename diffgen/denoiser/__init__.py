"""Models: what is left under the noise, and the networks that learn it."""

from diffgen.denoiser.base import Clipped, Denoiser, Preconditioned

__all__ = ["Clipped", "Denoiser", "Preconditioned"]
